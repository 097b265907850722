"""Several processes are as one: the same losses, weights and counts, whoever holds which part; and they end together."""

import json
import multiprocessing
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import ibot_hub
from ibot_hub.errors import SourceError
from ibot_training import checkpoint, loop
from ibot_training.distributed import World, agreed, everyones, joined, mean, shard, share_of, shared, whole
from ibot_training.loop import train
from ibot_training.recipe import Crops, Masks, Network, Optimiser, ProjectionHead, Recipe, Run
from ibot_training.starting import find_start

# a server that has imported everything once and forks in milliseconds
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_training.loop", "sklearn.metrics", "torch.utils.tensorboard", "torch.distributed.fsdp"])

RECIPE = Recipe(
    name="small",
    network=Network(image_size=32, patch_size=8, embed_dim=64, depths=(2,), heads=(1,), drop_path=0.3),
    head=ProjectionHead(patterns=24, hidden_dim=48, bottleneck_dim=16),
    crops=Crops(global_size=32, local_count=2, local_size=16),
    masks=Masks(ratios=(0.3,), spreads=(0.1,)),
    optimiser=Optimiser(epochs=2, batch_size=8, lr=0.01, warmup_epochs=1, freeze_last_layer=0, momentum=0.9, clip=0.03),
    run=Run(precision="float32", log_every=1, save_every=0.5, keep_every=0, knn_every=2, picture_every=2),
)  # 26 images: 3 steps an epoch, 6 in all, saved every 2
FSDP = {"parallel": "fsdp"}
LEFT = "SystemExit: 1"  # without a word


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Small JPEGs cut from the photographs, in three folders, which are classes."""
    folder = tmp_path_factory.mktemp("pictures")
    sources = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jpg"))]
    for index in range(26):
        (folder / "abc"[index % 3]).mkdir(exist_ok=True)
        corner = 4 * index
        sources[index % len(sources)].crop((corner, corner, corner + 60, corner + 48)).save(folder / "abc"[index % 3] / f"{index:02d}.jpg")
    return folder


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the recipe."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert together(1, RECIPE, pictures, out) == ["done"]
    return out


def varied(recipe: Recipe, **numbers: Any) -> Recipe:
    """The recipe with other numbers in its sections."""
    return replace(recipe, **{section: replace(getattr(recipe, section), **changed) for section, changed in numbers.items()})


def work(recipe: Recipe, source: Path, out: Path, fault: tuple[int, str, int] | None, begin: Path | None, outcome: Path) -> None:
    """In one of several processes; `fault`: what happens to the process of that rank in that step; `begin`: the run it starts from."""
    torch.set_num_threads(1)
    if fault and fault[0] == int(os.environ["RANK"]):
        real, left = loop.take_step, iter(range(fault[2] - 1))

        def struck(*arguments: Any) -> Any:
            if next(left, None) is None:
                if fault[1] == "error":
                    raise SourceError("no more images")
                os.kill(os.getpid(), int(fault[1]))
            return real(*arguments)

        loop.take_step = struck
    try:
        train(recipe, str(source), out, start=find_start(str(begin), out) if begin else None, device="cpu")
        outcome.write_text("done")
    except BaseException as error:
        outcome.write_text(f"{type(error).__name__}: {error}")


def starting(environment: dict[str, str], *arguments: Any) -> None:
    os.environ.update(environment)
    work(*arguments)


def together(
    size: int, recipe: Recipe, source: Path, out: Path, fault: tuple[int, str, int] | None = None, begin: Path | None = None
) -> list[str]:  # fmt: skip
    """Train by so many processes, as torchrun would start them; how each of them ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    out.parent.mkdir(exist_ok=True)
    outcomes = [out.parent / f"outcome-{rank}" for rank in range(size)]
    processes = []
    for rank, outcome in enumerate(outcomes):
        outcome.unlink(missing_ok=True)
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(PROCESSES.Process(target=starting, args=(environment, recipe, source, out, fault, begin, outcome)))
        processes[-1].start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    return [outcome.read_text() if outcome.exists() else f"exit {code}" for outcome, code in zip(outcomes, codes, strict=True)]


def metrics(out: Path) -> list[dict[str, float]]:
    """The lines of the log, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("images_per_second", "waiting")} for line in lines]


def tensors(out: Path) -> dict[str, Tensor]:
    """All that a run leaves: the last checkpoint, and the networks that were exported."""
    path = checkpoint.latest(out, pytest.fail)
    assert path
    found = dict(checkpoint.load(path).tensors)
    for network in ("teacher", "student"):
        found |= {f"{network}.safetensors/{name}": tensor for name, tensor in load_file(out / f"{network}.safetensors").items()}
    return found


def assert_close(out: Path, other: Path) -> None:
    """Losses, counts and weights to 1e-5; of the keys' rows of qkv.bias, whose true gradient is 0, AdamW makes steps of rounding errors."""
    for ours, theirs in zip(metrics(out), metrics(other), strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=1e-5)
    found, expected = tensors(out), tensors(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        one, two = found[name].float(), tensor.float()
        if name.endswith("qkv.bias") and one.ndim:
            rows = len(one) // 3
            assert (one[rows : 2 * rows] - two[rows : 2 * rows]).abs().max() < 5e-3
            one, two = (torch.cat([t[:rows], t[2 * rows :]]) for t in (one, two))
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


# one process


def test_one_process_is_left_alone() -> None:
    cpu = torch.device("cpu")
    with joined(cpu) as world:
        assert world == World(0, 1, cpu)
        assert world.leads
        tensor, module = torch.ones(2), nn.Linear(2, 2)
        assert mean(world, tensor) is tensor
        assert (agreed(world, True), agreed(world, False), everyones(world, "a")) == (True, False, ["a"])
        assert shared(world, module) is module
        shard(world, module, [])
        assert type(module) is nn.Linear
        assert whole(world, tensor) is tensor
        assert share_of(tensor, module.weight).equal(tensor)


# as one


@pytest.mark.parametrize(
    ("size", "run"),
    [
        (1, {"accumulate": 2}),
        (2, {}),
        (2, {"accumulate": 2}),
        (2, {"parallel": "fsdp", "accumulate": 2, "checkpointing": True}),
    ],
    ids=["accumulated", "ddp", "ddp accumulated", "fsdp accumulated"],
)
def test_several_processes_and_parts_equal_one(alone: Path, pictures: Path, tmp_path: Path, size: int, run: dict[str, Any]) -> None:
    assert together(size, varied(RECIPE, run=run), pictures, tmp_path / "run") == ["done"] * size
    assert_close(tmp_path / "run", alone)
    assert json.loads((tmp_path / "run" / "starts.jsonl").read_text())["processes"] == size
    assert (tmp_path / "run" / "pictures" / "step-00000006.png").exists()


@pytest.fixture(scope="module")
def in_shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of the recipe, each of which holds a part of the weights."""
    out = tmp_path_factory.mktemp("shards") / "run"
    assert together(2, varied(RECIPE, run=FSDP), pictures, out) == ["done", "done"]
    return out


def test_weights_in_shards_equal_whole_ones(alone: Path, in_shards: Path) -> None:
    assert_close(in_shards, alone)
    for network in ("teacher", "student"):
        assert ibot_hub.load(in_shards, network=network).head is not None


def test_a_run_goes_on_in_shards_or_without(alone: Path, in_shards: Path, pictures: Path, tmp_path: Path) -> None:
    """Killed in shards after step 3: in shards it goes on bit for bit, here or in another folder; in whole weights, or alone, as it
    would have with them."""
    out = tmp_path / "run"
    assert together(2, varied(RECIPE, run=FSDP), pictures, out, (0, "9", 4)) == ["exit -9", LEFT]
    assert checkpoint.latest(out, pytest.fail) == out / "checkpoints" / "step-00000002"
    for copy, size, recipe in (("whole", 2, RECIPE), ("alone", 1, RECIPE)):
        shutil.copytree(out, tmp_path / copy)
        assert together(size, recipe, pictures, tmp_path / copy) == ["done"] * size
        assert_close(tmp_path / copy, alone)
    elsewhere = tmp_path / "elsewhere"
    assert together(2, varied(RECIPE, run=FSDP), pictures, elsewhere, begin=out) == ["done", "done"]
    assert together(2, varied(RECIPE, run=FSDP), pictures, out) == ["done", "done"]
    assert metrics(out) == metrics(in_shards)
    assert metrics(elsewhere) == metrics(in_shards)[2:]
    expected = tensors(in_shards)
    for found in (tensors(out), tensors(elsewhere)):
        assert [name for name in expected if not found[name].equal(expected[name])] == []


@pytest.mark.long
def test_a_run_goes_on_into_shards(alone: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert together(1, RECIPE, pictures, out, (0, "15", 3))[0].startswith("StoppedError: stopped after step 3 of 6")
    assert together(2, varied(RECIPE, run=FSDP), pictures, out) == ["done", "done"]
    assert_close(out, alone)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
@pytest.mark.parametrize("weights", [{"cls_weight": 0.0}, {"patch_weight": 0.0}], ids=["patches", "cls"])
def test_a_loss_alone(pictures: Path, tmp_path: Path, weights: dict[str, float], parallel: str) -> None:
    """Nobody waits for gradients of layers that only the other loss uses, nor for one of the mask token in an epoch without masks."""
    head = {"sharing": "separate", "patch_patterns": 20, "learn_lengths": False}
    recipe = varied(RECIPE, loss=weights, head=head, masks={"start_epoch": 1}, run={"parallel": parallel})
    assert together(2, recipe, pictures, tmp_path / "two") == ["done", "done"]
    assert together(1, recipe, pictures, tmp_path / "one") == ["done"]
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_swin(pictures: Path, tmp_path: Path, parallel: str) -> None:
    swin = {"arch": "swin", "patch_size": 4, "embed_dim": 16, "depths": (1, 2, 1, 1), "heads": (1, 1, 2, 2), "window_size": 2}
    recipe = varied(RECIPE, network=swin, crops={"global_size": 64, "local_size": 32}, run={"parallel": parallel})
    assert together(2, recipe, pictures, tmp_path / "two") == ["done", "done"]
    assert together(1, recipe, pictures, tmp_path / "one") == ["done"]
    assert_close(tmp_path / "two", tmp_path / "one")


# ending together


def test_a_signal_to_one_stops_all(pictures: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first, second = together(2, RECIPE, pictures, out, (1, "15", 3))
    said = f"StoppedError: stopped after step 3 of 6; all is saved in {out}, and the same command goes on."
    assert sorted([first, second]) == sorted([said, "SystemExit: 143"])
    assert checkpoint.latest(out, pytest.fail) == out / "checkpoints" / "step-00000003"
    assert together(2, RECIPE, pictures, out) == ["done", "done"]
    assert_close(out, alone)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_ends_all_and_is_told_once(pictures: Path, tmp_path: Path, rank: int) -> None:
    outcomes = together(2, RECIPE, pictures, tmp_path / "run", (rank, "error", 4))
    assert (outcomes[rank], outcomes[1 - rank]) == ("SourceError: no more images", LEFT)
    assert checkpoint.latest(tmp_path / "run", pytest.fail) == tmp_path / "run" / "checkpoints" / "step-00000002"


def test_an_error_of_all_is_told_once(pictures: Path, tmp_path: Path) -> None:
    recipe = varied(RECIPE, optimiser={"lr": 1e30})
    outcomes = sorted(together(2, recipe, pictures, tmp_path / "run"))
    assert outcomes[0] == LEFT
    assert outcomes[1].startswith("TrainingError: The loss of step 3 is nan")


def test_a_run_that_is_held_starts_no_process(pictures: Path, tmp_path: Path) -> None:
    with checkpoint.locked(tmp_path / "run"):
        first, second = together(2, RECIPE, pictures, tmp_path / "run")
    assert first.startswith("StoreError: ")
    assert "is being written by another run" in first
    assert second == LEFT
    assert not (tmp_path / "run" / "images.parquet").exists()


def test_a_batch_must_be_shared_out_evenly(pictures: Path, tmp_path: Path) -> None:
    outcomes = together(2, varied(RECIPE, optimiser={"batch_size": 7}), pictures, tmp_path / "run")
    assert sorted(outcomes) == [
        "SystemExit: 2",
        "UsageError: optimiser.batch_size is 7; it must be a multiple of 2 processes x 1 (run.accumulate).",
    ]
