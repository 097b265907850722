"""One shard in each format: the same bytes every time, small, and cheap to read in part (test_features.py reads it all back)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ibot_hub.features.shards import ParquetShard, Rows

FORMATS = ("parquet", "safetensors", "npy")
ROOT = Path(__file__).parents[2]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name if path.is_dir() else "": file.read_bytes() for file in (path.iterdir() if path.is_dir() else [path])}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_rows_give_the_same_bytes_in_any_process(tmp_path, format):
    # Another process has another hash seed, so an order that depends on it would show.
    code = (
        "import sys; from pathlib import Path; import numpy as np; from ibot_hub.features.shards import *\n"
        "rows = Rows(['a', 'b'], [1, 2], [3, 4], {'feature': np.ones((2, 6), np.float32)}, (Failure(2, 'c', 'broken'),))\n"
        "shard_at(Path(sys.argv[1]), sys.argv[2]).write(rows, {'feature': [6]})"
    )
    seen = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, tmp_path / seed, format], env=environment, check=True)
        seen.append(contents(tmp_path / seed))
    assert seen[0] == seen[1]


def test_features_computed_in_16_bits_take_about_half_the_room(tmp_path):
    random = np.random.default_rng(0).standard_normal((500, 384)).astype(np.float32)
    feature = (random.view(np.uint32) & 0xFFFF0000).view(np.float32)  # bfloat16 has the upper half of the bits
    rows = Rows(["x.jpg"] * 500, [1] * 500, [1] * 500, {"feature": feature})
    ParquetShard(tmp_path / "shard").write(rows, {"feature": [384]})
    assert (tmp_path / "shard").stat().st_size < 0.55 * feature.nbytes


def test_large_rows_are_cut_into_groups_so_that_one_is_cheap_to_read(tmp_path):
    patches = np.zeros((6, 80, 80, 1024), np.float32)  # 25 MiB an image
    rows = Rows(["x.jpg"] * 6, [1] * 6, [1] * 6, {"patches": patches})
    ParquetShard(tmp_path / "shard").write(rows, {"patches": [80, 80, 1024]})
    metadata = pq.read_metadata(tmp_path / "shard")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 2, 2]


def test_a_shard_whose_images_all_failed_has_no_row_group(tmp_path):
    # An empty one is where Hugging Face datasets stops.
    ParquetShard(tmp_path / "shard").write(Rows([], [], [], {"feature": np.empty((0, 6), np.float32)}), {"feature": [6]})
    assert pq.read_metadata(tmp_path / "shard").num_row_groups == 0
    assert str(pq.read_schema(tmp_path / "shard").field("feature").type) == "fixed_size_list<element: float not null>[6]"
