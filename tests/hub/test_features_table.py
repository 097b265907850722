"""Features as one table: the same from every format, read lazily, and open to other tools."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ibot_hub.errors import StoreError
from ibot_hub.features.shards import Failure, Rows
from ibot_hub.features.store import Manifest, save_manifest, shard_path, write_shard
from ibot_hub.features.table import Features, open_features

FORMATS = ("parquet", "safetensors", "npy")
IMAGES, SHARD = 11, 3  # shards of 3, 3, 3 and 2 images
FAILED = {2, 3, 4, 5, 10}  # all of the second shard
FIXED = {"feature": [6], "patches": [2, 3, 4]}
VARYING = {"feature": [6], "patches": None}
GOOD = [row for row in range(IMAGES) if row not in FAILED]


def of_image(row: int, shapes) -> dict[str, np.ndarray]:
    """What was computed of the image in that row of the source."""
    random = np.random.default_rng(row)
    grid = (1 + row % 3, 2 + row % 2, 4)
    return {name: random.standard_normal(grid if shape is None else shape, np.float32) for name, shape in shapes.items()}


def save(folder: Path, format: str, shapes=FIXED) -> Path:
    texts = {field: field for field in ("model", "arch", "network", "weights", "source", "listing", "tokens", "pool", "dtype")}
    numbers = {"images": IMAGES, "device": "cpu", "shard_size": SHARD, "layers": 1, "batch_size": 2}
    save_manifest(folder, Manifest(**texts, **numbers, format=format, columns=shapes, preprocessing={}, versions={}))
    for index, first in enumerate(range(0, IMAGES, SHARD)):
        share = range(first, min(first + SHARD, IMAGES))
        good = [row for row in share if row not in FAILED]
        failures = tuple(Failure(row, path_of(row), "broken") for row in share if row in FAILED)
        arrays = {name: [of_image(row, shapes)[name] for row in good] for name in shapes}
        arrays = {name: values if shapes[name] is None else np.array(values) for name, values in arrays.items()}
        rows = Rows([path_of(row) for row in good], [100 + row for row in good], [200 + row for row in good], arrays, failures)
        write_shard(folder, index, format, rows, shapes)
    return folder


def path_of(row: int) -> str:
    return f"photos/{row} ü\n.jpg"


@pytest.fixture(scope="module", params=FORMATS)
def features(request, tmp_path_factory) -> Features:
    return open_features(save(tmp_path_factory.mktemp("features"), request.param))


@pytest.fixture(scope="module", params=FORMATS)
def varying(request, tmp_path_factory) -> Features:
    return open_features(save(tmp_path_factory.mktemp("varying"), request.param, VARYING))


def test_all_comes_back_as_it_was_written_in_order(features):
    assert len(features) == len(features.feature) == len(GOOD)
    assert features.paths == [path_of(row) for row in GOOD]
    assert features.widths.tolist() == [100 + row for row in GOOD]
    assert features.heights.tolist() == [200 + row for row in GOOD]
    assert features.failures == tuple(Failure(row, path_of(row), "broken") for row in sorted(FAILED))
    for column in (features.feature, features.patches):
        expected = np.array([of_image(row, FIXED)[column.name] for row in GOOD])
        assert np.asarray(column).tobytes() == expected.tobytes()  # so NaN and -0.0 would be seen
        assert column.shape == expected.shape
        assert column.dtype == np.asarray(column).dtype == np.float32
        assert np.asarray(column, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    "rows",
    [
        0,
        -1,
        3,
        np.int64(4),
        slice(None),
        slice(1, 4),
        slice(5, 1, -2),
        slice(4, 4),
        [5, 0, 0, -2],
        [],
        np.array([[0, 5], [2, 1]]),
        np.arange(6) % 2 == 0,
    ],
    ids=str,
)
def test_rows_are_taken_by_the_rules_of_numpy(features, rows):
    for column in (features.feature, features.patches):
        everything = np.array([of_image(row, FIXED)[column.name] for row in GOOD])
        np.testing.assert_array_equal(column[rows], everything[rows])


@pytest.mark.parametrize("rows", [6, -7, [6], (0, 1)])
def test_a_row_that_is_not_there_is_an_index_error(features, rows):
    with pytest.raises(IndexError):
        features.feature[rows]


def test_what_is_read_may_be_written(features):
    for read in (features.feature[0], features.feature[1:3], next(features.feature.blocks()), np.asarray(features.feature)):
        read += 1
        assert type(read) is np.ndarray
    np.testing.assert_array_equal(features.feature[0], of_image(0, FIXED)["feature"])


def test_blocks_are_the_shards_and_iteration_the_rows(features):
    assert [block.shape for block in features.patches.blocks()] == [(2, 2, 3, 4), (0, 2, 3, 4), (3, 2, 3, 4), (1, 2, 3, 4)]
    np.testing.assert_array_equal(np.concatenate(list(features.patches.blocks())), features.patches[:])
    np.testing.assert_array_equal(list(features.feature), features.feature[:])


def test_patches_of_different_shapes_are_arrays_of_their_own(varying):
    expected = [of_image(row, VARYING)["patches"] for row in GOOD]
    assert varying.patches.shape == (6,)
    for row in (*range(6), -1):
        np.testing.assert_array_equal(varying.patches[row], expected[row])
        varying.patches[row][...] = 0
    for read, wanted in (
        (varying.patches[:], expected),
        (varying.patches[1:4], expected[1:4]),
        (varying.patches[[5, 0]], [expected[5], expected[0]]),
        (list(varying.patches), expected),
    ):
        assert isinstance(read, list)
        assert [patches.tobytes() for patches in read] == [patches.tobytes() for patches in wanted]
        assert [patches.shape for patches in read] == [patches.shape for patches in wanted]
    assert [len(block) for block in varying.patches.blocks()] == [2, 0, 3, 1]
    np.testing.assert_array_equal(varying.feature[:], [of_image(row, VARYING)["feature"] for row in GOOD])


def test_patches_of_different_shapes_make_no_one_array(varying):
    with pytest.raises(StoreError, match=r"patches differ in shape from image to image"):
        np.asarray(varying.patches)


def test_an_array_without_a_copy_is_refused_as_numpy_wants(features):
    with pytest.raises(ValueError, match="is a copy"):
        np.asarray(features.feature, copy=False)


def test_a_column_that_was_not_extracted_is_named_with_those_that_were(tmp_path):
    features = open_features(save(tmp_path, "parquet", {"feature": [6]}))
    with pytest.raises(StoreError, match=r"holds no patches, only feature; extract to another folder with --tokens both"):
        _ = features.patches


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_shards_that_hold_the_rows_are_read(tmp_path, format):
    features = open_features(save(tmp_path, format))
    for index in (0, 1, 3):
        path = shard_path(tmp_path, index, format)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    third = [of_image(row, FIXED)["feature"] for row in (6, 7, 8)]
    np.testing.assert_array_equal(features.feature[2:5], third)
    np.testing.assert_array_equal(features.feature[[4, 2]], [third[2], third[0]])
    with pytest.raises(StoreError, match=r"shard-00000\S* is damaged \(.*\); remove it and run the same command again"):
        features.feature[1:3]


PEAK = """
import resource, sys
import numpy as np
from ibot_hub.features.table import open_features
features = open_features(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(len(block) for block in features.feature.blocks()) == len(features)
features.patches[50], features.paths
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("format", FORMATS)
def test_memory_is_that_of_what_is_read_not_of_the_folder(tmp_path, format):
    shapes = {"feature": [8], "patches": [14, 14, 768]}
    manifest = Manifest(
        **dict.fromkeys(("model", "arch", "network", "weights", "source", "listing", "tokens", "pool", "dtype", "device"), ""),
        **{"images": 400, "shard_size": 400, "layers": 1, "batch_size": 1, "format": format, "columns": shapes},
        **{"preprocessing": {}, "versions": {}},
    )
    save_manifest(tmp_path, manifest)
    arrays = {name: np.zeros((400, *shape), np.float32) for name, shape in shapes.items()}  # patches: 230 MiB
    write_shard(tmp_path, 0, format, Rows(["a"] * 400, [1] * 400, [1] * 400, arrays), shapes)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", PEAK, tmp_path], env=environment, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 150  # MiB: one row group of Parquet and its decoding


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_run_says_which_shards_are_missing_and_how_to_go_on(tmp_path, format):
    save(tmp_path, format)
    for index, words in ((1, f"{shard_path(tmp_path, 1, format).name} is missing"), (3, "and 1 more are missing")):
        path = shard_path(tmp_path, index, format)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(StoreError, match=rf"{words} of the 4 shards in .*: run the same command again"):
            open_features(tmp_path)


def damaged_file(folder: Path, format: str) -> Path:
    path = shard_path(folder, 2, format)
    return path / "rows.jsonl" if path.is_dir() else path


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_shard_is_named(tmp_path, format, kept):
    file = damaged_file(save(tmp_path, format), format)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(StoreError, match=r"shard-00002\S* is damaged \(.*\); remove it and run the same command again"):
        open_features(tmp_path)


def test_a_damaged_array_is_named_when_it_is_read(tmp_path):
    features = open_features(save(tmp_path, "npy"))
    file = tmp_path / "shard-00002" / "feature.npy"
    file.write_bytes(file.read_bytes()[:-5])
    assert features.feature[:2].shape == (2, 6)
    with pytest.raises(StoreError, match=r"shard-00002 is damaged"):
        features.feature[2:]


def test_a_shard_of_other_rows_than_the_manifest_says_is_damaged(tmp_path):
    save(tmp_path, "parquet")
    shutil.copy(shard_path(tmp_path, 2, "parquet"), shard_path(tmp_path, 3, "parquet"))
    with pytest.raises(StoreError, match=r"shard-00003\.parquet is damaged \(3 rows and 0 failures, of 2 images\)"):
        open_features(tmp_path)


@pytest.mark.parametrize("name", ["", "missing", "file"])
def test_a_folder_without_a_manifest_is_no_folder_of_features(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"is not a folder of features: it holds no manifest.json; `ibot extract-features"):
        open_features(str(tmp_path / name))


# Other tools, by the lines of the README


@pytest.fixture(scope="module", params=[FIXED, VARYING], ids=["fixed", "varying"])
def parquet(request, tmp_path_factory) -> Path:
    folder = save(tmp_path_factory.mktemp("parquet"), "parquet", request.param)
    (folder / "listing.parquet").write_bytes(b"not for them")
    return folder


def check(folder: Path, paths, widths, feature, patches) -> None:
    shapes = json.loads((folder / "manifest.json").read_text())["columns"]
    assert list(paths) == [path_of(row) for row in GOOD]
    assert list(widths) == [100 + row for row in GOOD]
    np.testing.assert_array_equal(np.array([list(row) for row in feature], np.float32), [of_image(row, FIXED)["feature"] for row in GOOD])
    for read, row in zip(patches, GOOD, strict=True):
        np.testing.assert_array_equal(np.array(list(read), np.float32), of_image(row, shapes)["patches"].reshape(-1))


def test_pandas_reads_it(parquet):
    pandas = pytest.importorskip("pandas")
    table = pandas.concat(map(pandas.read_parquet, sorted(parquet.glob("shard-*.parquet"))))
    check(parquet, table["path"], table["width"], table["feature"], table["patches"])


def test_duckdb_reads_it(parquet):
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(f"select path, width, feature, patches from '{parquet}/shard-*.parquet'").fetchall()
    check(parquet, *zip(*rows, strict=True))


def test_polars_reads_it(parquet):
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(f"{parquet}/shard-*.parquet")
    check(parquet, *(table[name].to_list() for name in ("path", "width", "feature", "patches")))
    assert table["feature"].to_numpy().shape == (6, 6)  # a fixed-size list is an array


def test_datasets_reads_it(parquet, tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset("parquet", data_files=f"{parquet}/shard-*.parquet", split="train", cache_dir=str(tmp_path))
    check(parquet, *(table[name] for name in ("path", "width", "feature", "patches")))


def test_pyarrow_sees_lists_of_fixed_size(parquet):
    table = pq.read_table([*sorted(parquet.glob("shard-*.parquet"))])
    assert str(table.schema.field("feature").type) == "fixed_size_list<element: float not null>[6]"
    if "patch_rows" in table.column_names:
        shapes = [of_image(row, VARYING)["patches"].shape for row in GOOD]
        assert list(zip(table["patch_rows"].to_pylist(), table["patch_columns"].to_pylist(), strict=True)) == [
            shape[:2] for shape in shapes
        ]
