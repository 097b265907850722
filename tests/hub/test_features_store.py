"""The folder of an extraction: shards whole or not at all, one manifest, one record of failures."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ibot_hub.errors import StoreError
from ibot_hub.features.shards import Failure, Rows
from ibot_hub.features.store import (
    Manifest,
    clear,
    is_written,
    prepare,
    read_failures,
    read_manifest,
    save_manifest,
    shard_path,
    write_failed,
    write_shard,
)

FORMATS = ("parquet", "safetensors", "npy")
SHAPES = {"feature": [6], "patches": [2, 3, 4]}
ROOT = Path(__file__).parents[2]


def a_manifest(**changes) -> Manifest:
    values = {
        "model": "tiny",
        "arch": "ViT-S/16",
        "network": "teacher",
        "weights": "ab" * 32,
        "source": "photos",
        "images": 10,
        "listing": "cd" * 32,
        "preprocessing": {"size": 224, "resize": "crop", "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "patch": 16},
        "tokens": "both",
        "layers": 1,
        "pool": "cls",
        "dtype": "float32",
        "batch_size": 8,
        "format": "parquet",
        "device": "cpu",
        "shard_size": 4,
        "columns": SHAPES,
        "versions": {"ibot-hub": "0.1.0"},
    }
    return Manifest(**{**values, **changes})


def some_rows(count: int, first: int = 0, failures: tuple[Failure, ...] = ()) -> Rows:
    random = np.random.default_rng(first)
    arrays = {name: random.standard_normal((count, *shape), np.float32) for name, shape in SHAPES.items()}
    paths = [f"photos/ü {first + row}\n.jpg" for row in range(count)]
    return Rows(paths, np.arange(count) + 100, np.arange(count) + 200, arrays, failures)


def digest(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else path.iterdir()
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def python(code: str, *arguments: object, **options) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def output(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out


# Shards


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_is_written_once_it_is_there_and_leaves_nothing_else(tmp_path, format):
    assert not is_written(tmp_path, 7, format)
    write_shard(tmp_path, 7, format, some_rows(3), SHAPES)
    assert is_written(tmp_path, 7, format)
    assert [entry.name for entry in tmp_path.iterdir()] == [shard_path(tmp_path, 7, format).name]
    for file in tmp_path.rglob("*.*"):
        assert file.is_dir() or file.stat().st_mode & 0o777 == 0o666 & ~_umask()  # others may read them as any other file


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


WRITE_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from ibot_hub.features.shards import Rows
from ibot_hub.features.store import write_shard
rows = Rows(["a"] * 64, [1] * 64, [1] * 64, {"feature": np.random.default_rng(0).standard_normal((64, 60000), np.float32)})
print("go", flush=True)
for index in range(1000):
    write_shard(Path(sys.argv[1]), index, sys.argv[2], rows, {"feature": [60000]})
"""


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_process_leaves_whole_shards_and_one_temporary_that_the_next_run_replaces(tmp_path, format):
    process = python(WRITE_FOR_EVER, tmp_path, format)
    assert process.stdout.readline() == "go\n"
    deadline = time.monotonic() + 60
    while not (is_written(tmp_path, 1, format) and any(tmp_path.glob(".*.partial"))):  # in the middle of a shard
        assert time.monotonic() < deadline
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = [entry.name for entry in tmp_path.glob(".*")]
    assert len(left) <= 1
    count = sum(1 for _ in tmp_path.glob("shard-*"))
    assert len({tuple(digest(shard_path(tmp_path, index, format)).values()) for index in range(count)}) == 1
    write_shard(tmp_path, count, format, some_rows(3), SHAPES)
    assert list(tmp_path.glob(".*")) == []


WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
import numpy as np
from ibot_hub.errors import StoreError
from ibot_hub.features.shards import Rows
from ibot_hub.features.store import write_shard
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
rows = lambda n: Rows(["a"] * n, [1] * n, [1] * n, {"feature": np.random.default_rng(0).standard_normal((n, 1000), np.float32)})
write_shard(Path(sys.argv[1]), 0, sys.argv[2], rows(9), {"feature": [1000]})
try:
    write_shard(Path(sys.argv[1]), 1, sys.argv[2], rows(2000), {"feature": [1000]})
except StoreError as error:
    print(error)
"""


def check_full(folder: Path, format: str, message: str) -> None:
    assert "whole shards so far: 1; free space" in message
    assert "run the same command again" in message
    assert shard_path(folder, 1, format).name in message
    assert [entry.name for entry in folder.iterdir()] == [shard_path(folder, 0, format).name]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_may_not_grow_leaves_nothing_half_written(tmp_path, format):
    check_full(tmp_path, format, output(python(WRITE_TOO_MUCH, tmp_path, format, 1_000_000)))


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing_half_written(small_disk, format):
    message = output(python(WRITE_TOO_MUCH, small_disk, format))
    check_full(small_disk, format, message)


def test_an_interrupt_removes_the_temporary(tmp_path, monkeypatch):
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 0, "parquet", some_rows(2), SHAPES)
    assert list(tmp_path.iterdir()) == []


# Failures


@pytest.mark.parametrize("format", FORMATS)
def test_failed_jsonl_is_compiled_from_the_shards_in_order_of_rows(tmp_path, format):
    save_manifest(tmp_path, a_manifest(format=format))
    late, early = Failure(9, "photos/\udcff.jpg", "empty"), Failure(1, "photos/ö\n.jpg", "cut short")
    write_shard(tmp_path, 2, format, some_rows(1, 8, (late,)), SHAPES)
    write_failed(tmp_path)
    write_shard(tmp_path, 0, format, some_rows(3, 0, (early,)), SHAPES)
    write_failed(tmp_path)
    assert read_failures(tmp_path) == (early, late)
    lines = (tmp_path / "failed.jsonl").read_bytes().decode("ascii").splitlines()
    assert [json.loads(line) for line in lines] == [vars(early), vars(late)]


def test_without_failures_there_is_no_failed_jsonl_and_a_stale_one_goes(tmp_path):
    save_manifest(tmp_path, a_manifest())
    write_shard(tmp_path, 0, "parquet", some_rows(4), SHAPES)
    (tmp_path / "failed.jsonl").write_text("{}\n")
    write_failed(tmp_path)
    assert not (tmp_path / "failed.jsonl").exists()
    write_failed(tmp_path)
    assert read_failures(tmp_path) == ()


def test_parts_that_end_at_the_same_time_leave_all_failures_in_failed_jsonl(tmp_path):
    save_manifest(tmp_path, a_manifest(images=32, shard_size=2))
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from ibot_hub.features.shards import *; from ibot_hub.features.store import *\n"
        "part, folder = int(sys.argv[2]), Path(sys.argv[1])\n"
        "for k in range(part, 16, 4):\n"
        "    rows = Rows(['a'], [1], [1], {'feature': np.ones((1, 6), np.float32)}, (Failure(2 * k + 1, 'b', 'broken'),))\n"
        "    write_shard(folder, k, 'parquet', rows, {'feature': [6]}); write_failed(folder)"
    )
    for process in [python(code, tmp_path, part) for part in range(4)]:
        output(process)
    rows = [json.loads(line)["row"] for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 32, 2))


# The manifest


def test_a_manifest_comes_back_as_it_was_saved(tmp_path):
    save_manifest(tmp_path / "new" / "folder", a_manifest())
    read = read_manifest(tmp_path / "new" / "folder")
    assert read.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert replace(read, preprocessing=a_manifest().preprocessing) == a_manifest()
    assert (read.shards, a_manifest(images=8).shards) == (3, 2)


def test_every_difference_is_named_with_both_values(tmp_path):
    save_manifest(tmp_path, a_manifest())
    other = a_manifest(layers=4, weights="12" * 32, columns={"feature": [24]}, preprocessing={**a_manifest().preprocessing, "size": 448})
    with pytest.raises(StoreError) as caught:
        save_manifest(tmp_path, other)
    message = str(caught.value)
    assert message.endswith("use another --out, or --overwrite to start again.")
    for words in (
        f"{tmp_path} was made with size=224, now size=448 and ",
        "with layers=1, now layers=4",
        "with weights=abababababab..., now weights=121212121212...",
        "with shape of feature=[6], now shape of feature=[24]",
        "with shape of patches=[2, 3, 4], now shape of patches=None",
    ):
        assert words in message
    assert message.count(", now ") == 5
    assert read_manifest(tmp_path).layers == 1


@pytest.mark.parametrize(
    "field", [name for name in Manifest.__dataclass_fields__ if name not in ("versions", "model", "preprocessing", "columns")]
)
def test_each_field_belongs_to_the_identity(tmp_path, field):
    save_manifest(tmp_path, a_manifest())
    with pytest.raises(StoreError, match=f"with {field}=.*, now {field}=other;"):
        save_manifest(tmp_path, a_manifest(**{field: "other"}))


def test_other_versions_may_go_on_and_the_recorded_ones_stay(tmp_path):
    save_manifest(tmp_path, a_manifest())
    save_manifest(tmp_path, a_manifest(versions={"ibot-hub": "9"}))
    assert read_manifest(tmp_path).versions == {"ibot-hub": "0.1.0"}


def test_of_processes_that_race_one_writes_the_manifest_and_the_others_compare(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ibot_hub.features.store import *; from ibot_hub.errors import StoreError\n"
        "manifest = Manifest.from_json(sys.stdin.read())\n"
        "try: save_manifest(Path(sys.argv[1]), manifest); print('saved')\n"
        "except StoreError as error: print(error)"
    )
    processes = [python(code, tmp_path / "out", stdin=subprocess.PIPE) for _ in range(4)]
    for number, process in enumerate(processes):
        process.stdin.write(a_manifest(layers=1 + number % 2).to_json())
    for process in processes:
        process.stdin.close()
        process.stdin = None
    answers = [output(process) for process in processes]
    winner = read_manifest(tmp_path / "out").layers
    assert [answer == "saved\n" for answer in answers] == [1 + number % 2 == winner for number in range(4)]
    assert all("layers=" in answer for answer in answers if answer != "saved\n")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": "tiny"}', "\xff"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)


# The folder


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    for act in (prepare, clear, lambda folder: save_manifest(folder, a_manifest())):
        with pytest.raises(StoreError, match=r"is not a folder of features: it holds holiday.jpg but no manifest.json"):
            act(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["holiday.jpg"]


def test_shards_without_a_manifest_are_refused(tmp_path):
    write_shard(tmp_path, 0, "parquet", some_rows(2), SHAPES)
    with pytest.raises(StoreError, match=r"it holds shard-00000\.parquet but no manifest"):
        save_manifest(tmp_path, a_manifest())


def test_what_a_run_leaves_that_was_killed_early_is_no_obstacle(tmp_path):
    for name in ("listing.parquet", ".listing.parquet.partial", ".manifest.json.partial", ".lock", ".part-0-of-2.lock"):
        (tmp_path / name).write_bytes(b"")
    save_manifest(tmp_path, a_manifest())
    assert read_manifest(tmp_path).images == 10


def test_clear_removes_what_an_extraction_wrote_and_nothing_else(tmp_path):
    save_manifest(tmp_path, a_manifest())
    for index, format in enumerate(FORMATS):
        write_shard(tmp_path, index, format, some_rows(2), SHAPES)
    for name in ("listing.parquet", "failed.jsonl", ".shard-00009.parquet.partial", ".part-0.lock"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".shard-00009.partial").mkdir()
    kept = {"notes.txt", ".hidden", "shard-1.parquet", "shard-00001.parquet.bak", ".mine.partial"}
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    clear(tmp_path)
    # a lock that another process holds must not be lost
    assert {entry.name for entry in tmp_path.iterdir()} == kept | {".lock", ".part-0.lock", "manifest.json"}


def test_out_that_is_a_file_or_below_one_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file is a file; choose another --out\.$"):
        prepare(tmp_path / "file")
    with pytest.raises(StoreError, match=r"cannot be made \(Not a directory\); choose another --out\.$"):
        prepare(tmp_path / "file" / "features")


def test_a_lock_that_cannot_be_taken_is_one_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StoreError, match=r"\.lock cannot be locked \(Is a directory\)"):
        save_manifest(tmp_path, a_manifest())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user reaches; pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_out_that_is_not_writable_is_one_sentence(open_folder):
    # Root may write anywhere, so an ordinary user tries.
    (open_folder / "full").mkdir(mode=0o755)
    code = (
        "import os, sys; from pathlib import Path; from ibot_hub.features.store import prepare; from ibot_hub.errors import StoreError\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for out in sys.argv[1:]:\n"
        "    try: prepare(Path(out))\n"
        "    except StoreError as error: print(error)"
    )
    if os.geteuid() != 0:
        open_folder.chmod(0o555)
        (open_folder / "full").chmod(0o555)
    lines = output(python(code, open_folder / "full", open_folder / "new" / "one")).splitlines()
    open_folder.chmod(0o755)
    assert lines == [
        f"{open_folder}/full is not writable; choose another --out, or change its permissions.",
        f"{open_folder}/new/one cannot be made (Permission denied); choose another --out.",
    ]
