"""A run's folder survives kills, a full disk and damage, and opens as a model."""

import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ibot_hub
from ibot_hub import weights
from ibot_hub.backbones import Backbone
from ibot_hub.errors import StoreError
from ibot_hub.head import Head
from ibot_hub.origin import Origin
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT
from ibot_training.checkpoint import begun, export, is_exported, latest, load, locked, prune, save

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_training.checkpoint", "ibot_hub.loading"])
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def filled(value: float, size: int = 1000) -> dict[str, Tensor]:
    """Tensors that all hold the same number, so that a mixture of two checkpoints would show."""
    return {f"optimiser.exp_avg.{index}": torch.full((size,), float(value)) for index in range(4)}


def value_of(path: Path) -> float:
    """The one number that a checkpoint of `filled` tensors holds, after all of it was checked."""
    state = load(path)
    values = {value for tensor in state.tensors.values() for value in tensor.unique().tolist()} | {state.facts["value"]}
    assert len(values) == 1, values
    return float(values.pop())


def save_filled(run: Path, step: int, value: float | None = None, size: int = 1000) -> Path:
    value = step if value is None else value
    return save(run, step, filled(value, size), {"value": value})


def steps(run: Path) -> list[str]:
    return sorted(path.name.removeprefix("step-").lstrip("0") for path in (run / "checkpoints").iterdir())


def quiet(sentence: str) -> None:
    raise AssertionError(sentence)


# what is saved comes back


def test_tensors_and_facts_come_back_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(12, generator=generator)
    weight = nn.Parameter(torch.randn(3, 5, generator=generator))
    tensors: dict[str, Tensor] = {
        "float32": torch.tensor([0.1, -0.0, math.inf, math.nan, 1e-45]),
        "bfloat16": torch.randn(7, generator=generator).bfloat16(),
        "float16": torch.randn(7, generator=generator).half(),
        "float64": torch.randn(2, 3, generator=generator).double(),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "no dimension": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "transposed": weight.t(),
        "parameter": weight,
        "the same again": weight,
        "a part of one memory": flat[:6],
        "another part": flat[6:],
        "across both": flat[3:9],
    }
    facts = {"scale": 65536.0, "growth": 0.1 + 0.2, "skipped": 3, "recipe": "é", "versions": {"torch": "2"}, "loss": math.inf, "no": None}
    path = save(tmp_path / "run", 1200, tensors, facts)
    assert path == tmp_path / "run" / "checkpoints" / "step-00001200"
    assert sorted(entry.name for entry in path.iterdir()) == ["state.json", "state.safetensors"]
    state = load(path)
    assert (state.step, state.facts) == (1200, facts)
    assert state.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        ours = state.tensors[name]
        assert (ours.dtype, ours.shape, ours.device) == (tensor.dtype, tensor.shape, torch.device("cpu")), name
        assert ours.contiguous().view(-1).view(torch.uint8).equal(tensor.detach().contiguous().view(-1).view(torch.uint8)), name


def test_what_was_loaded_outlives_its_file(tmp_path: Path) -> None:
    path = save_filled(tmp_path, 1)
    state = load(path)
    file = path / "state.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert all((tensor == 1).all() for tensor in state.tensors.values())


def test_others_may_read_what_they_may_read_of_this_user(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    expected = (tmp_path / "ordinary").stat().st_mode
    path = save_filled(tmp_path, 1)
    export(tmp_path, *two_states(vit(0), vit(1)), Origin())
    for file in (*path.iterdir(), tmp_path / "teacher.safetensors", tmp_path / "student.safetensors"):
        assert file.stat().st_mode == expected, file


# which one is taken


def test_the_newest_is_taken_and_a_new_run_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere", quiet) is None
    for step in (9, 100_000_000, 10):  # nine digits sort after eight
        save_filled(tmp_path, step)
    (tmp_path / "checkpoints" / "step-notes").mkdir()
    assert latest(tmp_path, quiet) == tmp_path / "checkpoints" / "step-100000000"


def test_a_step_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save_filled(tmp_path, 1)
    for value in (2.0, 3.0, 4.0):
        path = save_filled(tmp_path, 2, value)
        assert latest(tmp_path, quiet) == path
        assert value_of(path) == value
    assert steps(tmp_path) == ["1", "2.2"]


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)


def another_size(file: Path) -> None:
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps(content | {"size": content["size"] + 1}))


def another_fact(file: Path) -> None:
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps(content | {"facts": {"value": 7}}))


def a_list(file: Path) -> None:
    file.write_text("[]")


DAMAGES = [
    ("state.safetensors", cut, r"state.safetensors has 16,\d+ bytes, not 16,\d+"),
    ("state.safetensors", emptied, "state.safetensors has 0 bytes"),
    ("state.safetensors", one_bit, "its content is another than was written"),
    ("state.safetensors", Path.unlink, "No such file"),
    ("state.json", cut, "is no whole checkpoint"),
    ("state.json", emptied, "is no whole checkpoint"),
    ("state.json", another_size, "bytes, not 16,"),
    ("state.json", another_fact, "its content is another than was written"),
    ("state.json", a_list, "is no whole checkpoint"),
    ("state.json", Path.unlink, "No such file"),
]


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES, ids=[f"{name}: {damage.__name__}" for name, damage, _ in DAMAGES])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: Any, said: str) -> None:
    first, second = save_filled(tmp_path, 1), save_filled(tmp_path, 2)
    damage(second / name)
    if damage is cut and name == "state.json":
        cut(second / name)  # the first byte that is lost ends a line
    with pytest.raises(StoreError, match=said) as caught:
        load(second)
    sentences: list[str] = []
    assert latest(tmp_path, sentences.append) == first
    assert sentences == [str(caught.value)]
    assert sentences[0].startswith(f"{second} is no whole checkpoint (")
    assert sentences[0].endswith("; an earlier one has to be taken.")
    assert "\n" not in sentences[0]
    damage(first / name)
    if damage is cut and name == "state.json":
        cut(first / name)
    with pytest.raises(StoreError, match=r"No checkpoint in .*checkpoints is whole; put a copy of one back, or start again"):
        latest(tmp_path, sentences.append)
    assert len(sentences) == 3


def test_a_damaged_step_is_saved_anew(tmp_path: Path) -> None:
    emptied(save_filled(tmp_path, 2) / "state.safetensors")
    path = save_filled(tmp_path, 2)
    assert latest(tmp_path, quiet) == path
    assert len(steps(tmp_path)) == 1


def test_a_run_has_begun_with_its_first_checkpoint_however_that_fares(tmp_path: Path) -> None:
    assert not begun(tmp_path / "nowhere")
    (tmp_path / "checkpoints").mkdir()
    assert not begun(tmp_path)
    emptied(save_filled(tmp_path, 0) / "state.json")
    assert begun(tmp_path)


@pytest.mark.parametrize("changes", [{"step": -1}, {"step": "2"}, {"step": True}, {"facts": []}])
def test_what_does_not_say_its_step_is_no_checkpoint(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Though its digest is right, as somebody may have written it who publishes it."""
    path = save_filled(tmp_path, 2)
    content = json.loads((path / "state.json").read_bytes()) | changes
    digest = hashlib.sha256((path / "state.safetensors").read_bytes())
    digest.update(json.dumps([content["step"], content["facts"]]).encode())
    (path / "state.json").write_text(json.dumps(content | {"digest": digest.hexdigest()}))
    with pytest.raises(StoreError, match="it does not say after which step it was saved"):
        load(path)


# which ones stay


def test_the_newest_stay_beside_one_of_each_period(tmp_path: Path) -> None:
    for step in range(10, 130, 10):
        save_filled(tmp_path, step)
        prune(tmp_path, step, keep=2, keep_every=40)
    assert steps(tmp_path) == ["100", "110", "120", "40", "80"]
    assert not (tmp_path / ".partial").exists()


def test_the_first_after_a_multiple_stays_where_none_is_at_it(tmp_path: Path) -> None:
    for step in (30, 45, 60, 75, 90, 105):
        save_filled(tmp_path, step)
        prune(tmp_path, step, keep=1, keep_every=40)
    assert steps(tmp_path) == ["105", "45", "90"]


@pytest.mark.parametrize(("keep", "left"), [(0, ["3"]), (1, ["3"]), (2, ["2", "3"]), (9, ["1", "2", "3"])])
def test_without_periods_the_newest_stay_and_never_none(tmp_path: Path, keep: int, left: list[str]) -> None:
    for step in (1, 2, 3):
        save_filled(tmp_path, step)
    prune(tmp_path, 3, keep, 0)
    assert steps(tmp_path) == left


def test_what_lies_beyond_the_step_just_saved_goes(tmp_path: Path) -> None:
    for step in (1, 5):
        save_filled(tmp_path, step)
    emptied(tmp_path / "checkpoints" / "step-00000005" / "state.json")
    save_filled(tmp_path, 2)
    prune(tmp_path, 2, keep=1, keep_every=0)
    assert steps(tmp_path) == ["2"]


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    for step in (1, 2):
        save_filled(tmp_path, step)
    (tmp_path / ".partial").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory\); the last good checkpoint is .*step-00000002; free space"):
        prune(tmp_path, 2, keep=1, keep_every=0)
    assert steps(tmp_path) == ["1", "2"]


# kills


def save_for_ever(run: Path, first: int) -> None:
    step = first
    while True:
        save_filled(run, step, size=500_000)
        prune(run, step, keep=2, keep_every=10)
        step += 1


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.long)])
def test_a_kill_at_any_moment_leaves_whole_checkpoints_alone(tmp_path: Path, kills: int) -> None:
    save_filled(tmp_path, 1)
    moments = random.Random(kills)
    reached, struck = 1, 0
    for _ in range(kills):
        process = PROCESSES.Process(target=save_for_ever, args=(tmp_path, reached + 1))
        process.start()
        deadline = time.monotonic() + 60
        while latest_name(tmp_path) == f"step-{reached:08d}":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        struck += (tmp_path / ".partial").exists()
        for path in (tmp_path / "checkpoints").iterdir():
            assert value_of(path) == load(path).step
        found = latest(tmp_path, quiet)
        assert found
        assert load(found).step > reached
        reached = load(found).step
    assert struck, "no kill struck while something was written or removed"
    save_filled(tmp_path, reached + 1)
    assert not (tmp_path / ".partial").exists()


def test_what_a_killed_run_left_is_no_part_of_what_comes_next(tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / ".tmpAbCdEf").write_bytes(b"")  # as safetensors calls a file that is not whole yet
    path = save_filled(tmp_path, 1)
    assert sorted(entry.name for entry in path.iterdir()) == ["state.json", "state.safetensors"]


def latest_name(run: Path) -> str:
    return max(path.name for path in (run / "checkpoints").iterdir())


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}


def die_at(event: int, run: Path, done: Any) -> None:
    """Save, prune and export, but die just before the given change of the disk."""
    left = event

    def count(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name in CHANGES or (name == "open" and arguments[2] & os.O_WRONLY):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    save_filled(run, 2, 3.0)
    prune(run, 2, keep=1, keep_every=0)
    export(run, *two_states(vit(3), vit(4)), Origin(heads=4))
    done.value = 1


def test_a_kill_before_each_change_of_the_disk_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    before = tmp_path / "before"
    save_filled(before, 1)
    save_filled(before, 2)
    export(before, *two_states(vit(1), vit(2)), Origin(heads=4))
    seen = set()
    done = PROCESSES.Value("i", 0)
    for event in itertools.count(1):
        run = tmp_path / str(event)
        shutil.copytree(before, run)
        process = PROCESSES.Process(target=die_at, args=(event, run, done))
        process.start()
        process.join()
        for path in (run / "checkpoints").iterdir():
            value_of(path)
        found = latest(run, quiet)
        assert found
        seen.add((value_of(found), *(int(weights.read(run, name).backbone["norm.bias"][0]) for name in ("teacher", "student"))))
        if done.value:
            break
        assert process.exitcode == -signal.SIGKILL
        save_filled(run, 3)
        assert {entry.name for entry in run.iterdir()} == {"checkpoints", "teacher.safetensors", "student.safetensors"}
    assert {(2, 1, 2), (3, 1, 2), (3, 3, 4)} <= seen <= {(2, 1, 2), (3, 1, 2), (3, 3, 2), (3, 1, 4), (3, 3, 4)}
    assert steps(run) == ["2.1"]
    assert process.exitcode == 0
    assert event > 20


# a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    run = small_disk / "run"
    with pytest.raises(
        StoreError, match=r"run cannot be written \(.*No space left on device.*\); there is no good checkpoint yet; free sp"
    ):
        save_filled(run, 0, size=100_000)
    for step in (1, 2):
        save_filled(run, step, size=10_000)
    export(run, *two_states(vit(1), vit(2)), Origin(heads=4))
    emptied(save_filled(run, 3) / "state.json")
    filler = small_disk / "filler"
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    for free in (400, 200, 100, 20, 0):  # KiB; in the middle of the tensors, and with no room for a folder
        filler.write_bytes(b"")
        room = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(room - free * 1024, 0)))
        for act in (
            lambda: save_filled(run, 4, size=30_000),
            lambda: export(run, *two_states(vit(3), vit(4), patterns=4000), Origin(heads=4)),
        ):
            with pytest.raises(
                StoreError, match=r"No space left on device.*; the last good checkpoint is .*/step-00000002; free space, or"
            ):
                act()
            assert {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()} == before
            assert not (run / ".partial").exists()
    filler.unlink()
    assert value_of(save_filled(run, 4)) == 4
    assert ibot_hub.load(run).backbone.norm.bias[0] == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file cannot be written \(File exists\); there is no good checkpoint yet"):
        save_filled(tmp_path / "file", 1)
    with (
        pytest.raises(StoreError, match=r"file cannot be locked \(File exists\); make the folder writable, or choose another --out\.$"),
        locked(tmp_path / "file"),
    ):
        pass


# one run at a time


def hold(run: Path, held: Any) -> None:
    with locked(run):
        held.set()
        time.sleep(60)


def start_holding(run: Path) -> ForkServerProcess:
    held = PROCESSES.Event()
    process = PROCESSES.Process(target=hold, args=(run, held))
    process.start()
    assert held.wait(60)
    return process


def test_two_runs_cannot_write_one_folder_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    process = start_holding(run)
    try:
        with pytest.raises(StoreError, match=rf"{run} is being written by another run; wait for its end"), locked(run):
            pass
    finally:
        process.kill()
        process.join()
    for _ in range(2):
        with locked(run):
            save_filled(run, 1)


# ibot_hub.load


def vit(value: int) -> ViT:
    """A small one, which says in its last bias which one it is."""
    backbone = ViT(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, eps=1e-3)
    nn.init.constant_(backbone.norm.bias, value)
    return backbone


def state_of(backbone: nn.Module, head: nn.Module, mask_token: Tensor | None = None) -> dict[str, Tensor]:
    state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    return state if mask_token is None else state | {"mask_token": mask_token}


def two_states(teacher: nn.Module, student: nn.Module, patterns: int = 20) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    head = Head(48, patterns, None, 32, 16)
    return state_of(teacher, head), state_of(student, head, torch.ones(1, 48))


def test_networks_are_those_of_a_checkpoint_or_not(tmp_path: Path) -> None:
    teacher, student = two_states(vit(1), vit(2))
    tensors = {f"teacher.{name}": tensor for name, tensor in teacher.items()} | {f"student.{name}": t for name, t in student.items()}
    path = save(tmp_path, 1, tensors, {})
    assert not is_exported(tmp_path, path)
    export(tmp_path, teacher, student, Origin())
    assert is_exported(tmp_path, path)
    assert not is_exported(tmp_path, save(tmp_path, 2, tensors | {"student.mask_token": torch.zeros(1, 48)}, {}))
    assert not is_exported(tmp_path, save(tmp_path, 3, dict(teacher), {}))


def swin() -> Swin:
    return Swin(patch_size=4, window_size=7, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))


@pytest.mark.parametrize("arch", ["vit", "swin"])
@pytest.mark.parametrize("patch_patterns", [None, 30])
@torch.no_grad()
def test_a_run_opens_as_the_networks_it_exported(tmp_path: Path, arch: str, patch_patterns: int | None) -> None:
    torch.manual_seed(0)
    backbones: list[Backbone] = [vit(0), vit(0)] if arch == "vit" else [swin(), swin()]
    heads = [Head(backbone.num_features, 20, patch_patterns, 32, 16) for backbone in backbones]
    mask_token = torch.randn(1, backbones[1].embed_dim)
    for backbone in backbones:
        for parameter in backbone.parameters():  # so that heads and eps matter
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    origin = Origin(None, "run", 4 if arch == "vit" else None, 1e-3 if arch == "vit" else None, MEAN, STD)
    save_filled(tmp_path, 1)
    with locked(tmp_path):
        for _ in range(2):  # the second time over the first
            export(tmp_path, state_of(backbones[0], heads[0]), state_of(backbones[1], heads[1], mask_token), origin)
    images = torch.randn(2, 3, 64, 64)
    for network, backbone, head in zip((None, "student"), backbones, heads, strict=True):
        model = ibot_hub.load(tmp_path, network)
        assert model.card.network == (network or "teacher")
        assert (model.transform.mean, model.transform.std) == (MEAN, STD)
        tokens, expected = model(images), backbone.eval()(images)
        assert torch.equal(tokens.cls, expected.cls)
        assert torch.equal(tokens.patches, expected.patches)
        assert model.head is not None
        logits, theirs = model.head(tokens), head(expected)
        assert torch.equal(logits.cls, theirs.cls)
        assert torch.equal(logits.patches, theirs.patches)
        assert logits.patches.shape[-1] == (patch_patterns or 20)
        if network is None:
            assert model.mask_token is None
        else:
            assert model.mask_token is not None
            assert torch.equal(model.mask_token, mask_token)
            mask = torch.rand(2, *expected.patches.shape[1:3]) < 0.5
            hidden = model.backbone(images, mask, model.mask_token)
            assert torch.equal(hidden.patches, backbone(images, mask, mask_token).patches)
    assert torch.equal(ibot_hub.load(str(tmp_path), "teacher").backbone.norm.bias, backbones[0].norm.bias)
    assert ibot_hub.load(tmp_path, head=False).head is None
