"""A run starts where another one stopped, or from a model, and from nothing else."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import ibot_hub
from ibot_hub.errors import DownloadError, StoppedError, StoreError, TrainingError, UnknownModelError, WeightsError
from ibot_hub.formats.full import read_centres
from ibot_hub.hub.publish import push
from ibot_hub.options import PushOptions
from ibot_training import checkpoint, loop
from ibot_training.loop import train
from ibot_training.publishing import state_to_publish
from ibot_training.recipe import Crops, Masks, Network, Optimiser, ProjectionHead, Recipe, Run
from ibot_training.recipe_file import load_recipe
from ibot_training.starting import Start, find_start
from tests.hub_server import OWNER, HubServer

# huggingface_hub 2.4 sends large files in a way that its own httpx2 finds outdated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")

RECIPE = Recipe(
    name="small",
    network=Network(image_size=32, patch_size=8, embed_dim=64, depths=(2,), heads=(1,), drop_path=0.3),
    head=ProjectionHead(patterns=24, hidden_dim=48, bottleneck_dim=16),
    crops=Crops(global_size=32, local_count=2, local_size=16),
    masks=Masks(ratios=(0.3,), spreads=(0.1,)),
    optimiser=Optimiser(epochs=3, batch_size=4, lr=0.05, warmup_epochs=1, momentum=0.9),
    run=Run(precision="float32", log_every=1, save_every=9.0, keep_every=0),
)  # 8 images: 2 steps an epoch, 6 in all
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cut(photos: Path, folder: Path, first: int = 0) -> Path:
    """Eight small pictures in two classes."""
    sources = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jpg"))[:4]]
    for index in range(first, first + 8):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        corner = 4 * index
        sources[index % 4].crop((corner, corner, corner + 60, corner + 48)).save(folder / "ab"[index % 2] / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return cut(photos, tmp_path_factory.mktemp("pictures") / "here")


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(RECIPE, pictures, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="module")
def stopped(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after step 3, in the middle of an epoch."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, after=3)
        with pytest.raises(StoppedError):
            train(RECIPE, str(pictures), out, device="cpu")
    return out


def stop(patch: pytest.MonkeyPatch, after: int) -> None:
    real, left = loop.take_step, iter(range(after - 1))

    def interrupted(*arguments: Any) -> Any:
        if next(left, None) is None:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    patch.setattr(loop, "take_step", interrupted)


def ran(recipe: Recipe, pictures: Path, out: Path, start: Start | None = None) -> Path:
    train(recipe, str(pictures), out, start=start, device="cpu")
    return out


def started(name: str | Path, pictures: Path, out: Path, recipe: Recipe = RECIPE) -> Path:
    return ran(recipe, pictures, out, find_start(str(name), out))


def metrics(out: Path) -> list[dict[str, float]]:
    """The lines of the log, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("images_per_second", "waiting")} for line in lines]


def newest(out: Path) -> checkpoint.State:
    path = checkpoint.latest(out, pytest.fail)
    assert path
    return checkpoint.load(path)


def planted(monkeypatch: pytest.MonkeyPatch, name: str | Path, pictures: Path, out: Path, recipe: Recipe) -> checkpoint.State:
    """The first checkpoint of a run that is not let take a step."""

    class Enough(Exception):
        pass

    def never(*arguments: Any) -> Any:
        raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", never)
        with pytest.raises(Enough):
            started(name, pictures, out, recipe)
    return newest(out)


def assert_same(out: Path, other: Path) -> None:
    """Bit for bit: the last checkpoint, and the networks that were exported."""
    ours, theirs = newest(out), newest(other)
    assert (ours.step, ours.facts) == (theirs.step, theirs.facts)
    assert_equal(ours.tensors, theirs.tensors)
    for network in ("teacher.safetensors", "student.safetensors"):
        assert_equal(load_file(out / network), load_file(other / network))


def assert_equal(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


# from a run


def test_a_published_run_goes_on_elsewhere_as_if_it_had_never_stopped(
    hub_here: HubServer, pictures: Path, stopped: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Six steps are three steps, a push, and three steps by somebody who has the same pictures in another place."""
    monkeypatch.setenv("HF_TOKEN", OWNER)
    push(ibot_hub.load(stopped), "org/run", PushOptions(private=True), run=stopped, state=state_to_publish(stopped))
    commit = hub_here.repositories["org/run"].commits[-1].oid
    shutil.copytree(pictures, tmp_path / "pictures")
    start = find_start("hf-hub:org/run", tmp_path / "run")
    assert start.recipe
    assert load_recipe(str(start.recipe)) == replace(RECIPE, inferred=())
    capsys.readouterr()
    ran(load_recipe(str(start.recipe)), tmp_path / "pictures", tmp_path / "run", start)
    assert_same(tmp_path / "run", undisturbed)
    assert metrics(tmp_path / "run") == [line for line in metrics(undisturbed) if line["step"] > 3]
    said = capsys.readouterr().err
    assert f"hf-hub:org/run@{commit}: student, teacher, heads, centres and optimiser after step 3; recipe and images are the same" in said
    assert json.loads((tmp_path / "run" / "from.json").read_text()) == {
        "from": "hf-hub:org/run", "exactly": f"hf-hub:org/run@{commit}", "step": 3, "goes_on": True,
    }  # fmt: skip
    # as it was downloaded, it is the same
    local = planted(monkeypatch, start.state.parent if start.state else "", pictures, tmp_path / "local", RECIPE)
    assert local.step == 3
    with pytest.raises(DownloadError, match="There is no repository org/none for you"):
        find_start("hf-hub:org/none", tmp_path / "new")


def test_a_run_at_hand_goes_on_in_another_folder(
    pictures: Path, stopped: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stopped.parent)
    started("run", pictures, tmp_path / "run")
    assert_same(tmp_path / "run", undisturbed)
    content = json.loads((tmp_path / "run" / "from.json").read_text())
    assert (content["from"], content["exactly"]) == (str(stopped), str(stopped / "checkpoints" / "step-00000003"))
    assert newest(stopped).step == 3


def test_an_older_checkpoint_can_be_named(undisturbed: Path, stopped: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "old")
    older = tmp_path / "old" / "checkpoints" / "step-00000003"
    shutil.copytree(stopped / "checkpoints" / "step-00000003", older)
    started(older, pictures, tmp_path / "run")
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("what", ["recipe", "images", "unknown recipe"])
def test_another_recipe_or_other_images_begin_at_step_0(
    pictures: Path, photos: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    what: str,
) -> None:  # fmt: skip
    """With all that the other run had learned, AdamW's moments too; what it counted of its epoch is gone."""
    source, recipe, name = pictures, RECIPE, stopped
    because = {
        "recipe": "optimiser.lr is 0.01 and was 0.05, and 1 more", "images": "its images are not known to be these",
        "unknown recipe": "its recipe is not known",
    }[what]  # fmt: skip
    if what == "recipe":
        recipe = replace(RECIPE, optimiser=replace(RECIPE.optimiser, lr=0.01, weight_decay=0.1))
    if what == "images":
        source = cut(photos, tmp_path / "others", first=8)
    if what == "unknown recipe":
        name = tmp_path / "copy"
        shutil.copytree(stopped / "checkpoints", name / "checkpoints")
    state, theirs = planted(monkeypatch, name, source, tmp_path / "run", recipe), newest(stopped)
    assert state.step == 0
    assert f"after step 3; the steps begin at 0, because {because}\n" in capsys.readouterr().err
    assert_equal(state.tensors, {**theirs.tensors, "clusters": torch.zeros(0, 3, dtype=torch.int64)})
    assert any(name.startswith("optimiser.exp_avg.") for name in state.tensors)
    assert_equal(load_file(tmp_path / "run" / "teacher.safetensors"), load_file(stopped / "teacher.safetensors"))
    ran(recipe, source, tmp_path / "run")
    lines = [line for line in metrics(tmp_path / "run") if "lr" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["lr"] == 0.0  # its own warm-up
    assert newest(tmp_path / "run").step == STEPS


def test_a_run_that_was_trained_to_its_end_is_told(pictures: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"^{undisturbed} was trained to its end, step 6 of 6, by this recipe on these images; for a"):
        started(undisturbed, pictures, tmp_path / "run")
    more = replace(RECIPE, optimiser=replace(RECIPE.optimiser, epochs=1))
    started(undisturbed, pictures, tmp_path / "run", more)  # what the sentence says to do works in the same folder
    assert newest(tmp_path / "run").step == 2


# it goes on as any other


def test_the_same_command_goes_on_though_the_source_is_gone(
    pictures: Path, stopped: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stopped, tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch, after=2)
        with pytest.raises(StoppedError):
            started("source", pictures, out)
    shutil.rmtree(tmp_path / "source")
    for other, said in ((stopped, str(stopped)), ("hf-hub:org/run", "hf-hub:org/run"), ("tiny", "tiny")):
        with pytest.raises(TrainingError, match=f"^The run in {out} started from {tmp_path / 'source'}, not from {said}; leave --from out"):
            started(other, pictures, out)
    started("source/checkpoints/step-00000003", pictures, out)  # which it was exactly
    assert find_start("source", out) == Start(str(tmp_path / "source"), str(tmp_path / "source"), None, out / "recipe.toml")
    started("source", pictures, out)
    assert_same(out, undisturbed)


def test_a_run_that_started_from_nothing_is_not_given_anything(pictures: Path, stopped: Path, undisturbed: Path) -> None:
    with pytest.raises(TrainingError, match=f"^The run in {undisturbed} started from nothing, not from {stopped}; leave --from out"):
        started(stopped, pictures, undisturbed)


def test_a_kill_before_the_first_checkpoint_is_no_start_from_nothing(
    pictures: Path, stopped: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    class Killed(BaseException):
        pass

    def killed(*arguments: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(Killed):
            started(stopped, pictures, out)
    assert not (out / "checkpoints").exists()
    with pytest.raises(TrainingError, match=f"^The run in {out} starts from {stopped}, which it does not have yet; name that with --from"):
        ran(RECIPE, pictures, out)
    started(stopped, pictures, out)
    assert_same(out, undisturbed)
    (out / "from.json").write_text("{}")
    with pytest.raises(StoreError, match=r"from\.json cannot be read"):
        ran(RECIPE, pictures, out)


# from a model

MICRO = replace(
    RECIPE,
    network=replace(RECIPE.network, image_size=224, patch_size=16, embed_dim=128, heads=(2,)),
    head=replace(RECIPE.head, patterns=96, hidden_dim=128, bottleneck_dim=32),
    optimiser=replace(RECIPE.optimiser, epochs=1),
)


def test_an_official_checkpoint_gives_both_networks_their_heads_and_the_centres(
    golden: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = golden / "vit_micro_checkpoint.pth"
    state, centres = planted(monkeypatch, path, pictures, tmp_path / "run", MICRO), read_centres(path)
    assert state.step == 0
    assert centres
    student, teacher = (ibot_hub.load(path, network).state_dict() for network in ("student", "teacher"))
    assert "mask_token" in student
    assert_equal(
        state.tensors,
        {f"student.{name}": tensor for name, tensor in student.items()}
        | {f"teacher.{name}": tensor for name, tensor in teacher.items()}
        | {"cls_centre": centres[0], "patch_centre": centres[1], "clusters": torch.zeros(0, 3, dtype=torch.int64)},
    )
    assert f"{path}: student and teacher with their heads; anew: the optimiser\n" in capsys.readouterr().err
    ran(MICRO, pictures, tmp_path / "run")
    assert newest(tmp_path / "run").step == 2


def test_one_network_is_student_and_teacher(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(load_recipe("tiny_cpu"), optimiser=replace(RECIPE.optimiser, epochs=1), run=RECIPE.run)
    state = planted(monkeypatch, "tiny", pictures, tmp_path / "run", recipe)
    expected = ibot_hub.load("tiny").state_dict()
    for network in ("student", "teacher"):
        own = {name: tensor for name, tensor in state.tensors.items() if name.startswith(f"{network}.") and not name.endswith("mask_token")}
        assert_equal({name.removeprefix(f"{network}."): tensor for name, tensor in own.items()}, expected)
    assert not state.tensors["student.mask_token"].any()
    assert not state.tensors["cls_centre"].any()
    said = "tiny: the teacher alone, so student and teacher both begin as it; anew: the mask token, the centres, the optimiser\n"
    assert said in capsys.readouterr().err


def test_a_run_without_checkpoints_gives_its_networks(
    stopped: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, tmp_path / "old", ignore=shutil.ignore_patterns("checkpoints"))
    start = find_start(str(tmp_path / "old"), tmp_path / "run")
    assert (start.state, start.recipe) == (None, tmp_path / "old" / "recipe.toml")
    state = planted(monkeypatch, tmp_path / "old", pictures, tmp_path / "run", RECIPE)
    theirs: dict[str, Tensor] = {name: t for name, t in newest(stopped).tensors.items() if name.startswith(("student.", "teacher."))}
    assert_equal({name: state.tensors[name] for name in theirs}, theirs)
    assert "student and teacher with their heads; anew: the centres, the optimiser\n" in capsys.readouterr().err


def test_images_that_were_prepared_otherwise_are_told(
    stopped: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    read = ibot_hub.weights.read(stopped, "student")
    ibot_hub.weights.save(replace(read, origin=replace(read.origin, mean=(0.5, 0.5, 0.5))), model)
    planted(monkeypatch, model, pictures, tmp_path / "run", RECIPE)
    assert "; it knows images of the mean (0.5, 0.5, 0.5) and std (0.229, 0.224, 0.225), a run prepares them by" in capsys.readouterr().err


# what does not fit is told before anything is written


def test_other_networks_are_told_by_their_numbers(golden: Path, pictures: Path, stopped: Path, tmp_path: Path) -> None:
    wide = replace(RECIPE, head=replace(RECIPE.head, patterns=25))
    for name, recipe, said in (
        (stopped, wide, r"has head\.patterns=24 where the recipe small has head\.patterns=25; --set what differs, or take"),
        (golden / "vit_micro_checkpoint.pth", RECIPE, r"has network\.image_size=224, .* where the recipe small has network\.image_size"),
    ):
        with pytest.raises(TrainingError, match=f"^{name} {said}"):
            started(name, pictures, tmp_path / "run", recipe)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_what_cannot_be_started_from_is_told(golden: Path, pictures: Path, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UnknownModelError, match="vit_b61"):
        started("vit_b61", pictures, out)
    with pytest.raises(WeightsError, match=r"swin_micro_w14_checkpoint_teacher\.pth holds no projection head"):
        started(golden / "swin_micro_w14_checkpoint_teacher.pth", pictures, out)
    with pytest.raises(WeightsError, match=rf"{tmp_path} has no config\.json"):
        started(tmp_path, pictures, out)
    damaged = tmp_path / "damaged"
    shutil.copytree(stopped, damaged)
    (file,) = damaged.glob("checkpoints/*/state.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"No checkpoint in .*damaged/checkpoints is whole"):
        started(damaged, pictures, out)
    state = newest(stopped)
    shutil.rmtree(damaged / "checkpoints")
    checkpoint.save(damaged, 3, {name: tensor for name, tensor in state.tensors.items() if name != "patch_centre"}, state.facts)
    with pytest.raises(StoreError, match=f"^{damaged} does not hold what a run of the recipe small has: patch_centre is not there; take"):
        started(damaged, pictures, out)
