"""Extraction on real images in real processes: what is written, how it is resumed, and that nothing disturbs it."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.errors import SourceError, StoreError, UsageError
from ibot_hub.features import extraction
from ibot_hub.features.extraction import Extraction, Job, extract, run_parts
from ibot_hub.features.parts import Part
from ibot_hub.features.plan import plan_extraction
from ibot_hub.features.table import open_features
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import ExtractOptions

CHECKPOINT = Path(__file__).parents[1] / "golden" / "vit_micro_checkpoint.pth"

# a server that has imported everything once and forks in milliseconds: each run is a process of its own
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_hub.features.extraction", "ibot_hub.loading"])


@pytest.fixture(scope="module")
def model() -> Model:
    return load(CHECKPOINT)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """96 small JPEGs cut from the photographs, one of them broken, in two folders with equal names."""
    folder = tmp_path_factory.mktemp("pictures")
    sources = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jpg"))]
    for index in range(96):
        side = 60 + index
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        picture = sources[index % len(sources)].crop((index, index, index + side, index + 80))
        picture.save(folder / "ab"[index % 2] / f"{index // 2:03d}.jpg")
    (folder / "a" / "007.jpg").write_bytes((folder / "a" / "007.jpg").read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def undisturbed(model: Model, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    in_a_process(pictures, out).join()
    return out


def run(source: str | Path, out: Path, part: str | None = None, **options: Any) -> None:
    """In a process of its own; what it raises ends it with a traceback and exit code 1."""
    extract(load(CHECKPOINT), source, out, ExtractOptions(**{"dtype": "float32", **options}, shard_size=6, batch_size=4, part=part))


def in_a_process(source: str | Path, out: Path, part: str | None = None, **options: Any) -> BaseProcess:
    process = PROCESSES.Process(target=run, args=(source, out, part), kwargs=options)
    process.start()
    return process


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("shard-*"))}


def expected(model: Model, pictures: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(pictures.rglob("*.jpg")):
        if path.relative_to(pictures) != Path("a/007.jpg"):
            yield str(path.relative_to(pictures)), model(path).cls[0].numpy()


def test_rows_keep_the_order_and_their_features(model: Model, pictures: Path, undisturbed: Path) -> None:
    features = open_features(undisturbed)
    names, vectors = zip(*expected(model, pictures), strict=True)
    assert features.paths == list(names)
    assert np.abs(features.feature[:] - np.stack(vectors)).max() <= 1e-5
    with Image.open(pictures / names[50]) as image:
        assert (features.widths[50], features.heights[50]) == image.size
    failure = json.loads((undisturbed / "failed.jsonl").read_text())
    assert (failure["row"], failure["path"]) == (7, "a/007.jpg")
    assert len(list(undisturbed.glob("shard-*.parquet"))) == 16


def kill_and_rerun(pictures: Path, out: Path, undisturbed: Path, delay: float) -> int:
    """How many shards were whole when the process was killed."""
    process = in_a_process(pictures, out)
    time.sleep(delay)
    process.kill()
    process.join()
    whole = len(shards(out))
    again = in_a_process(pictures, out)
    again.join()
    assert again.exitcode == 0
    assert shards(out) == shards(undisturbed)
    assert (out / "failed.jsonl").read_bytes() == (undisturbed / "failed.jsonl").read_bytes()
    assert not list(out.glob(".*.partial"))
    return whole


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.long)])
def test_kill_and_rerun_gives_the_same_bytes(pictures: Path, undisturbed: Path, tmp_path: Path, kills: int) -> None:
    started = time.perf_counter()
    in_a_process(pictures, tmp_path / "timing").join()
    duration = time.perf_counter() - started
    moments = random.Random(kills)
    found = [kill_and_rerun(pictures, tmp_path / str(k), undisturbed, moments.uniform(0, duration)) for k in range(kills)]
    assert any(0 < whole < 16 for whole in found), f"no kill struck in mid-run: {found}"


def test_a_part_without_shards_is_no_failure(model: Model, pictures: Path, tmp_path: Path) -> None:
    result = extract(model, pictures, tmp_path, part="1/2", limit=3)
    assert (result.images, result.failed) == (0, 0)


def test_parts_equal_the_whole(pictures: Path, undisturbed: Path, tmp_path: Path) -> None:
    both = [in_a_process(pictures, tmp_path / "out", part=f"{index}/2") for index in (0, 1)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert shards(tmp_path / "out") == shards(undisturbed)
    assert (tmp_path / "out" / "failed.jsonl").read_bytes() == (undisturbed / "failed.jsonl").read_bytes()


def test_several_devices_equal_one(model: Model, pictures: Path, undisturbed: Path, tmp_path: Path) -> None:
    options = ExtractOptions(shard_size=6, batch_size=4, dtype="float32")
    cpu = torch.device("cpu")
    manifest, listing = plan_extraction(model, str(pictures), tmp_path / "out", options, cpu, None)
    advanced: list[int] = []
    job = Job(model, listing, manifest, tmp_path / "out", workers=1)
    run_parts(job, [Part(0, 2), Part(1, 2)], [cpu, cpu], lambda count, seconds: advanced.append(count))
    assert sum(advanced) == 96
    assert shards(tmp_path / "out") == shards(undisturbed)


def run_on_two(source: Path, out: Path) -> None:
    """What one command does on a machine with two GPUs; CPUs stand for them, since few test machines have two."""
    extraction.choose_devices = lambda choice: [torch.device("cpu"), torch.device("cpu")]  # type: ignore[attr-defined]
    run(source, out, size=448)


def test_the_processes_of_several_devices_end_with_the_command(pictures: Path, tmp_path: Path) -> None:
    process = PROCESSES.Process(target=run_on_two, args=(pictures, tmp_path / "out"))
    process.start()
    while not shards(tmp_path / "out"):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    time.sleep(0.5)  # for a batch that was under way
    written = shards(tmp_path / "out").keys()
    assert len(written) < 16
    time.sleep(1)
    assert shards(tmp_path / "out").keys() == written


def test_a_second_writer_of_the_same_part_is_refused(model: Model, pictures: Path, tmp_path: Path) -> None:
    first = in_a_process(pictures, tmp_path / "out", size=448)
    while not shards(tmp_path / "out"):
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid or 0, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="Another process is writing part 0/1"):
            extract(model, pictures, tmp_path / "out", shard_size=6, batch_size=4, size=448)
        with pytest.raises(StoreError, match="Another process is writing part 0/1"):
            extract(model, pictures, tmp_path / "out", shard_size=6, batch_size=4, size=448, part="0/2")
        with pytest.raises(StoreError, match="Another process is writing part 0/1"):
            extract(model, pictures, tmp_path / "out", overwrite=True)
    finally:
        first.kill()
        first.join()


def test_a_rerun_does_nothing_and_other_parameters_are_named(model: Model, pictures: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("shard-*")}
    renamed = load(os.path.relpath(CHECKPOINT))  # other names for the same weights and the same source
    again = extract(renamed, pictures / "a" / "..", undisturbed)  # sizes left open are kept as they were
    assert (again.images, again.resumed, again.failed) == (96, 96, 1)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("shard-*")} == before
    with pytest.raises(StoreError, match=r"with layers=1, now layers=2"):
        extract(model, pictures, undisturbed, layers=2)
    with pytest.raises(StoreError, match="with size=224, now size=96"):
        extract(model, pictures, undisturbed, size=96)
    with pytest.raises(StoreError, match="with dtype=float32, now dtype=bfloat16"):
        extract(model, pictures, undisturbed, dtype="bfloat16")
    with pytest.raises(StoreError, match=r"with source=.*pictures\d+, now source=.*/a;"):
        extract(model, pictures / "a", undisturbed)
    (undisturbed / "listing.parquet").rename(tmp_path / "listing.parquet")
    assert extract(model, pictures, undisturbed).resumed == 96  # a listing that is gone is made again
    with pytest.raises(StoreError, match="with images=96, now images=5"):
        extract(model, pictures, undisturbed, limit=5)
    student = load(CHECKPOINT, network="student")
    with pytest.raises(StoreError, match="with network=teacher, now network=student and with weights="):
        extract(student, pictures, undisturbed)


def test_overwrite_starts_again(model: Model, pictures: Path, tmp_path: Path) -> None:
    extract(model, pictures / "b", tmp_path / "out", shard_size=10)
    fresh = extract(model, pictures / "a", tmp_path / "out", overwrite=True, limit=3)
    assert (fresh.images, fresh.resumed) == (3, 0)
    assert open_features(tmp_path / "out").paths == ["000.jpg", "001.jpg", "002.jpg"]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert extract(model, pictures / "b", tmp_path / "out", overwrite=True, limit=2).images == 2
    assert (tmp_path / "out" / "notes.txt").exists()
    with pytest.raises(UsageError, match="overwrite would remove what the other parts write"):
        extract(model, pictures / "a", tmp_path / "out", overwrite=True, part="0/2")


def test_what_can_be_kept(model: Model, photos: Path, tmp_path: Path) -> None:
    """Every column against the model's own answers."""
    first, last = model.last_layers(photos / "coffee.jpg", 2)
    source = tmp_path / "one.txt"
    source.write_text(str(photos / "coffee.jpg"))
    mean = last.patches.mean(dim=(1, 2))
    cases: dict[str, tuple[dict[str, Any], torch.Tensor]] = {
        "layers": ({"layers": 2}, torch.cat([first.cls, last.cls], -1)),
        "mean": ({"pool": "mean"}, mean),
        "cls+mean": ({"pool": "cls+mean"}, torch.cat([last.cls, mean], -1)),
        "both layers": ({"layers": 2, "pool": "cls+mean"}, torch.cat([first.cls, last.cls, mean], -1)),
    }
    for name, (options, vector) in cases.items():
        extract(model, source, tmp_path / name, dtype="float32", **options)
        assert np.abs(open_features(tmp_path / name).feature[:] - vector.numpy()).max() <= 1e-5, name
    extract(model, source, tmp_path / "both", tokens="both", layers=2, format="safetensors", dtype="float32")
    features = open_features(tmp_path / "both")
    assert np.abs(features.patches[:] - torch.cat([first.patches, last.patches], -1).numpy()).max() <= 1e-5
    assert features.feature.shape == (1, 256)


def test_keep_gives_each_image_its_own_grid(model: Model, photos: Path, tmp_path: Path) -> None:
    extract(model, photos, tmp_path / "out", tokens="both", resize="keep", size=96, format="npy", limit=4, batch_size=4)
    features = open_features(tmp_path / "out")
    for index, path in enumerate(features.paths):
        with Image.open(photos / path) as image:
            short = min(image.size)
            grid = tuple(round(96 * side / short / 16) for side in (image.height, image.width))
        assert features.patches[index].shape == (*grid, 128), path
    assert len({patches.shape for patches in features.patches[:]}) > 1


def test_shards_list_and_standard_input_are_sources(model: Model, pictures: Path, undisturbed: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s-0.tar", "w") as archive:
        for name in ("a/001.jpg", "a/002.jpg"):
            archive.add(pictures / name, name)
    paths = [pictures / "a" / "001.jpg", pictures / "a" / "002.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    extract(model, tmp_path / "s-0.tar", tmp_path / "tar", dtype="float32")
    extract(model, tmp_path / "list.txt", tmp_path / "list", dtype="float32")
    with (tmp_path / "list.txt").open("rb") as stdin:
        extract(model, "-", tmp_path / "stdin", stdin=stdin, dtype="float32")
    vectors = [open_features(tmp_path / name).feature[:] for name in ("tar", "list", "stdin")]
    assert np.abs(vectors[0] - open_features(undisturbed).feature[1:3]).max() <= 1e-5
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[1], vectors[2])
    assert open_features(tmp_path / "tar").paths == ["s-0.tar/a/001.jpg", "s-0.tar/a/002.jpg"]
    with (tmp_path / "list.txt").open("rb") as stdin:
        assert extract(model, "-", tmp_path / "stdin", stdin=stdin, dtype="float32").resumed == 2
    (tmp_path / "other.txt").write_text(str(paths[0]))
    with (tmp_path / "other.txt").open("rb") as stdin, pytest.raises(StoreError, match="with images=2, now images=1"):
        extract(model, "-", tmp_path / "stdin", stdin=stdin, dtype="float32")


def test_all_broken_is_still_a_whole_result(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index in range(3):
        (source / f"{index}.jpg").write_text("no image")
    result = extract(model, source, tmp_path / "out", tokens="both")
    assert (result.images, result.failed) == (3, 3)
    features = open_features(tmp_path / "out")
    assert (features.feature.shape, features.patches.shape) == ((0, 128), (0, 14, 14, 128))
    assert len((tmp_path / "out" / "failed.jsonl").read_text().splitlines()) == 3


def test_sources_without_images_cost_nothing(model: Model, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="There is no"):
        extract(model, tmp_path / "missing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    extract(model, pictures, tmp_path / "kept", limit=3)
    for source in ("missing", "empty"):
        with pytest.raises(SourceError, match=str(tmp_path / source)):
            extract(model, tmp_path / source, tmp_path / "kept", overwrite=True)
        assert len(open_features(tmp_path / "kept")) == 3
    (tmp_path / "empty" / "1.png").write_bytes(b"")
    assert extract(model, tmp_path / "empty", tmp_path / "out").failed == 1


def test_contradictions_are_told(model: Model, photos: Path, tmp_path: Path) -> None:
    for options, said in (
        ({"layers": 3}, "this model has 2 blocks"),
        ({"tokens": "patches", "pool": "mean"}, "say tokens=both"),
        ({"pool": "mean", "layers": 2}, "of the last block alone"),
        ({"part": "2/2"}, "I from 0 to N-1"),
        ({"size": 60_000}, "size at most 8192"),
        ({"mean": (0.5, 0.5, float("nan"))}, "each needs three numbers"),
        ({"device": "cuda"}, "sees no cuda device") if not torch.cuda.is_available() else ({"layers": 9}, "2 blocks"),
    ):
        with pytest.raises(UsageError, match=said):
            extract(model, photos, tmp_path / "out", **options)
    with pytest.raises(UsageError, match="batch_size is 0; it must be at least 1"):
        ExtractOptions(batch_size=0)
    swin = load(CHECKPOINT.with_name("swin_micro_w7_checkpoint.pth"))
    with pytest.raises(UsageError, match="maps of different sizes"):
        extract(swin, photos, tmp_path / "out", tokens="patches", layers=3)
    assert extract(swin, photos, tmp_path / "swin", layers=4, limit=1).manifest.columns == {"feature": [64 + 64 + 128 + 128]}


def test_the_callers_model_stays_as_it_was(model: Model, photos: Path, tmp_path: Path) -> None:
    result = extract(model, photos, tmp_path / "out", dtype="bfloat16", limit=1)
    assert result.manifest.dtype == "bfloat16"
    assert model.dtype == torch.float32
    full = model(photos / open_features(tmp_path / "out").paths[0]).cls[0]
    half = torch.from_numpy(open_features(tmp_path / "out").feature[0])
    assert torch.cosine_similarity(full, half, dim=0) >= 0.999
    # a rerun that leaves the precision open keeps it
    assert extract(model, photos, tmp_path / "out", limit=1).manifest.dtype == "bfloat16"


def test_under_torchrun_each_process_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [torch.device("cuda", index) for index in range(4)]
    assert extraction._own_devices(devices) == devices
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert extraction._own_devices(devices) == [devices[2]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """48 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_whole_shards(model: Model, pictures: Path, undisturbed: Path, small_disk: Path) -> None:
    with pytest.raises(StoreError, match=r"No space left on device.*free space"):
        extract(model, pictures, small_disk / "out", shard_size=6, batch_size=4, dtype="float32")
    written = shards(small_disk / "out")
    assert 0 < len(written) < 16
    assert written.items() <= shards(undisturbed).items()
    assert not list((small_disk / "out").glob(".shard*"))
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    result: Extraction = extract(model, pictures, small_disk / "out")
    assert result.resumed == 6 * len(written)
    assert shards(small_disk / "out") == shards(undisturbed)
