"""Runs in this process and in others: what they leave, how they end, and that one which was killed goes on as if nothing had been."""

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import ibot_hub
from ibot_hub.errors import SourceError, StoppedError, StoreError, TrainingError
from ibot_training import checkpoint, loop, step
from ibot_training.loop import numbers_of, train
from ibot_training.monitor import Monitor
from ibot_training.optim import schedules
from ibot_training.recipe import Crops, Masks, Network, Optimiser, ProjectionHead, Recipe, Run
from ibot_training.recipe_file import load_recipe

# a server that has imported everything once and forks in milliseconds: each run is a process of its own
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_training.loop", "sklearn.metrics", "torch.utils.tensorboard"])

RECIPE = Recipe(
    name="small",
    network=Network(image_size=32, patch_size=8, embed_dim=64, depths=(2,), heads=(1,), drop_path=0.3),
    head=ProjectionHead(patterns=24, hidden_dim=48, bottleneck_dim=16),
    crops=Crops(global_size=32, local_count=2, local_size=16),
    masks=Masks(ratios=(0.3,), spreads=(0.1,)),
    optimiser=Optimiser(epochs=2, batch_size=4, lr=0.05, warmup_epochs=1, momentum=0.9),
    run=Run(precision="float32", log_every=1, save_every=0.5, keep_every=0),
)  # 26 images: 6 steps an epoch, 12 in all, saved every 3
IMAGES, STEPS = 26, 12


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
    for index in range(IMAGES):
        (folder / "abc"[index % 3]).mkdir(exist_ok=True)
        corner = 4 * index
        sources[index % len(sources)].crop((corner, corner, corner + 60, corner + 48)).save(folder / "abc"[index % 3] / f"{index:02d}.jpg")
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(RECIPE, str(pictures), out, device="cpu")
    return out


def metrics(out: Path) -> list[dict[str, float]]:
    """The lines of the log, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("images_per_second", "waiting")} for line in lines]


def tensors(out: Path) -> dict[str, Tensor]:
    """All that a run leaves: the last checkpoint, and the networks that were exported."""
    found = dict(checkpoint.load(newest(out)).tensors)
    for network in ("teacher", "student"):
        found |= {f"{network}.safetensors/{name}": tensor for name, tensor in load_file(out / f"{network}.safetensors").items()}
    return found


def newest(out: Path) -> Path:
    path = checkpoint.latest(out, pytest.fail)
    assert path
    return path


def assert_same(out: Path, other: Path) -> None:
    """Every loss, every count and every weight, bit for bit; each step stands in the log once."""
    assert metrics(out) == metrics(other)
    ours, theirs = tensors(out), tensors(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


# what a run leaves


def test_a_run_leaves_its_numbers_and_a_model(undisturbed: Path, pictures: Path) -> None:
    lines = metrics(undisturbed)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]  # and a line at the end of each epoch
    assert all(math.isfinite(line["loss"]) and line["skipped"] == 0 for line in lines if "loss" in line)
    plan = schedules(RECIPE.optimiser, RECIPE.loss, RECIPE.masks, 6)
    assert [line["lr"] for line in lines if "lr" in line] == plan.lr.tolist()
    assert {key for line in lines if "loss" not in line for key in line} == {"step", "epoch", "nmi", "ari", "fmi"}
    assert sorted(path.name for path in (undisturbed / "checkpoints").iterdir()) == ["step-00000009", "step-00000012"]
    start = json.loads((undisturbed / "starts.jsonl").read_text())
    assert (start["processes"], start["device"], start["versions"]["torch"]) == (1, "cpu", torch.__version__)
    state = checkpoint.load(newest(undisturbed))
    for network in ("teacher", "student"):
        model = ibot_hub.load(undisturbed, network=network)
        assert model.card.network == network
        assert (model.mask_token is not None) == (network == "student")
        assert model.head is not None
        assert model.head.last_layer.weight_v.equal(state.tensors[f"{network}.head.last_layer.weight_v"])
        assert model(pictures / "a" / "00.jpg").patches.isfinite().all()
    assert ibot_hub.load(undisturbed).card.network == "teacher"


def test_a_finished_run_is_left_as_it_is(undisturbed: Path, pictures: Path) -> None:
    before = newest(undisturbed).stat().st_mtime_ns
    trained = train(RECIPE, str(pictures), undisturbed, device="cpu")
    assert (trained.out, trained.steps) == (undisturbed, STEPS)
    assert newest(undisturbed).stat().st_mtime_ns == before


def test_networks_that_a_kill_left_behind_are_written_when_the_run_goes_on(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    """Of a run that is finished too, which saves nothing more."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    for path in ((out / "teacher.safetensors"), (out / "student.safetensors")):
        path.unlink()
    train(RECIPE, str(pictures), out, device="cpu")
    assert_same(out, undisturbed)


# killed, stopped, gone on


def run(pictures: Path, out: Path, doom: tuple[str, int] | None = None) -> None:
    """In a process of its own. `doom`: the process kills itself at the so manieth call of that function of the system or of the run."""
    torch.set_num_threads(1)
    if doom:
        name, calls = doom
        owner = {"fsync": os, "record": Monitor}[name]
        real, left = getattr(owner, name), iter(range(calls - 1))

        def dying(*arguments: Any, **named: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(owner, name, dying)
    train(RECIPE, str(pictures), out, device="cpu")


def started(pictures: Path, out: Path, doom: tuple[str, int] | None = None) -> ForkServerProcess:
    process = PROCESSES.Process(target=run, args=(pictures, out, doom))
    process.start()
    return process


@pytest.mark.parametrize(
    ("doom", "saved"),
    [
        (("record", 5), 3),  # in the middle of an epoch, two steps after a checkpoint
        (("fsync", 10), 3),  # the checkpoint of step 6 is half written
        (("fsync", 12), 6),  # it has its name
        (("fsync", 15), 6),  # the networks are being exported
    ],
    ids=["in an epoch", "while saving", "after saving", "while exporting"],
)
def test_kill_and_rerun_gives_the_same_run(
    pictures: Path, undisturbed: Path, tmp_path: Path, doom: tuple[str, int], saved: int
) -> None:  # fmt: skip
    process = started(pictures, tmp_path / "run", doom)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest(tmp_path / "run").name == f"step-{saved:08d}"
    again = started(pictures, tmp_path / "run")
    again.join()
    assert again.exitcode == 0
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_kills_at_any_moment(pictures: Path, undisturbed: Path, tmp_path: Path) -> None:
    moments, started_at = random.Random(0), time.perf_counter()
    started(pictures, tmp_path / "timing").join()
    duration = time.perf_counter() - started_at
    for number in range(15):
        for _ in range(2):
            process = started(pictures, tmp_path / str(number))
            time.sleep(moments.uniform(0, duration))
            process.kill()
            process.join()
        started(pictures, tmp_path / str(number)).join()
        assert_same(tmp_path / str(number), undisturbed)


def stopping(monkeypatch: pytest.MonkeyPatch, number: int, after: int) -> None:
    """The process is sent a signal while that step is under way."""
    real, left = loop.take_step, iter(range(after - 1))

    def interrupted(*arguments: Any) -> step.Losses:
        if next(left, None) is None:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(loop, "take_step", interrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(
    pictures: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    """Between two checkpoints, in the middle of an epoch: what was counted of it is kept."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stopping(patch, number, after=5)
        with pytest.raises(
            StoppedError, match=r"stopped after step 5 of 12; all is saved in .*run, and the same command goes on"
        ) as caught:
            train(RECIPE, str(pictures), tmp_path / "run", device="cpu")
    assert caught.value.exit_code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert newest(tmp_path / "run").name == "step-00000005"
    train(RECIPE, str(pictures), tmp_path / "run", device="cpu")
    assert_same(tmp_path / "run", undisturbed)


def test_a_signal_in_the_last_step_is_no_interruption(
    pictures: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping(monkeypatch, signal.SIGTERM, after=STEPS)
    train(RECIPE, str(pictures), tmp_path / "run", device="cpu")
    assert_same(tmp_path / "run", undisturbed)


# numbers that are not finite


def test_a_loss_that_is_no_number_stops_the_run(pictures: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance in step 5: the weights of step 4 are as they were, and the run can go on from the checkpoint of step 3."""
    real, calls, weights = step.patch_loss, iter(range(100)), {}

    def poisoned(student: Tensor, *others: Any) -> Tensor:
        return real(student, *others) * (math.nan if next(calls) // 2 == 4 else 1.0)  # twice a step: local crops, global crops

    def watched(progress: step.Progress, *others: Any) -> step.Losses:
        before = {name: tensor.clone() for name, tensor in progress.student.state_dict().items()}
        losses = step.take_step(progress, *others)
        weights.update(before=before, after=progress.student.state_dict())
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(step, "patch_loss", poisoned)
        patch.setattr(loop, "take_step", watched)
        with pytest.raises(TrainingError, match=r"The loss of step 5 is nan, so the run stopped .* is good\. Lower optimiser\.lr"):
            train(RECIPE, str(pictures), tmp_path / "run", device="cpu")
    assert all(tensor.equal(weights["after"][name]) for name, tensor in weights["before"].items())
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    assert newest(tmp_path / "run").name == "step-00000003"
    train(RECIPE, str(pictures), tmp_path / "run", device="cpu")
    assert_same(tmp_path / "run", undisturbed)


# images


@pytest.mark.parametrize("resident", [0, 40])
def test_a_broken_image_is_named_counted_and_left_out(pictures: Path, tmp_path: Path, resident: int) -> None:
    source = tmp_path / "source"
    for path in pictures.rglob("*.jpg"):
        copy = source / path.relative_to(pictures)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[: 300 if path.name == "04.jpg" else None])
    recipe = replace(RECIPE, optimiser=replace(RECIPE.optimiser, epochs=1), run=replace(RECIPE.run, resident=resident))
    train(recipe, str(source), tmp_path / "run", device="cpu")
    (line,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "b/04.jpg"
    assert metrics(tmp_path / "run")[-2]["skipped"] == 1


def test_images_that_make_no_run(pictures: Path, tmp_path: Path) -> None:
    few = replace(RECIPE, optimiser=replace(RECIPE.optimiser, batch_size=27))
    with pytest.raises(SourceError, match=r"There are 26 images, too few for a batch of 27: set optimiser\.batch_size to 26 or less"):
        train(few, str(pictures), tmp_path / "few", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty"):
        train(RECIPE, str(tmp_path / "empty"), tmp_path / "none", device="cpu")
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(8):
        (broken / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match="20 images that were drawn one after the other cannot be read, the last of them"):
        train(RECIPE, str(broken), tmp_path / "unread", device="cpu")


# what may change when a run goes on


def test_another_recipe_or_source_does_not_go_on(undisturbed: Path, pictures: Path, photos: Path) -> None:
    before = tensors(undisturbed)
    for other, said in (
        (replace(RECIPE, optimiser=replace(RECIPE.optimiser, lr=0.1)), r"optimiser\.lr = 0\.05, not 0\.1"),
        (replace(RECIPE, head=replace(RECIPE.head, patterns=25)), r"head\.patterns = 24, not 25"),
        (replace(RECIPE, run=replace(RECIPE.run, seed=1)), r"run\.seed = 0, not 1"),
    ):
        with pytest.raises(TrainingError, match=f"The run in .* has {said}; go on with its own recipe, .*recipe.toml, or choose another"):
            train(other, str(pictures), undisturbed, device="cpu")
    with pytest.raises(SourceError, match="has the images of"):
        train(RECIPE, str(photos), undisturbed, device="cpu")
    after = tensors(undisturbed)
    assert all(tensor.equal(after[name]) for name, tensor in before.items())


def test_temperatures_and_the_frozen_layer_go_by_epochs() -> None:
    recipe = replace(
        RECIPE, loss=replace(RECIPE.loss, warmup_epochs=2, cls_temperature=0.06), optimiser=replace(RECIPE.optimiser, epochs=3)
    )
    plan = schedules(recipe.optimiser, recipe.loss, recipe.masks, 6)
    found = [numbers_of(recipe, plan, number, 6) for number in (0, 5, 6, 17)]
    assert [numbers.cls_temperature for numbers in found] == pytest.approx([0.04, 0.04, 0.06, 0.06])
    assert [numbers.patch_temperature for numbers in found] == pytest.approx([0.04, 0.04, 0.07, 0.07])
    assert [numbers.last_layer_frozen for numbers in found] == [True, True, False, False]
    assert [numbers.lr for numbers in found] == [plan.lr[number] for number in (0, 5, 6, 17)]


# two at a time, and what the disk refuses


def test_a_run_is_held_by_one_process(pictures: Path, tmp_path: Path) -> None:
    with checkpoint.locked(tmp_path / "run"), pytest.raises(StoreError, match="is being written by another run"):
        train(RECIPE, str(pictures), tmp_path / "run", device="cpu")


def test_a_recipe_that_learned_nothing_yet_may_be_replaced(pictures: Path, tmp_path: Path) -> None:
    """As after a batch that was too large for the images."""
    large = replace(RECIPE, optimiser=replace(RECIPE.optimiser, batch_size=27))
    with pytest.raises(SourceError, match="too few for a batch of 27"):
        train(large, str(pictures), tmp_path / "run", device="cpu")
    once = replace(RECIPE, optimiser=replace(RECIPE.optimiser, epochs=1))
    assert train(once, str(pictures), tmp_path / "run", device="cpu").steps == 6
    assert load_recipe(str(tmp_path / "run" / "recipe.toml")) == once


def test_what_one_sees(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    often = replace(RECIPE.run, knn_every=1, picture_every=2)
    train(replace(RECIPE, run=often), str(pictures), tmp_path / "run", device="cpu")
    epochs = [line for line in metrics(tmp_path / "run") if "loss" not in line]
    assert [0 <= line["knn13"] <= 100 for line in epochs] == [True, True]
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["step-00000012.png"]
    said = capsys.readouterr().err
    assert "epoch 2: nmi" in said
    assert "step 12/12: loss" in said
