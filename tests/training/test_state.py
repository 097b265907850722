"""What a step changes goes into named tensors and comes back bit for bit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ibot_hub.errors import StoreError
from ibot_training.distributed import World
from ibot_training.recipe import Crops, Masks, Network, ProjectionHead, Recipe
from ibot_training.state import CLUSTERS, misfit, restore, tensors_of, under
from ibot_training.step import Numbers, Progress, begin, take_step

WORLD = World(0, 1, torch.device("cpu"))
RECIPE = Recipe(
    name="small",
    network=Network(image_size=16, patch_size=8, embed_dim=64, depths=(2,), heads=(1,)),
    head=ProjectionHead(patterns=12, patch_patterns=10, sharing="separate", hidden_dim=24, bottleneck_dim=8),
    crops=Crops(global_size=16, local_count=0),
    masks=Masks(ratios=(0.3,), spreads=(0.1,)),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Part:
    """Four images in two views."""

    local_crops = local_masks = None

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.global_crops = torch.randn(8, 3, 16, 16, generator=generator)
        self.global_masks = torch.tensor([[[True, False], [False, False]]]).repeat(8, 1, 1)
        self.drops = torch.rand(8, 4, generator=generator)


def stepped(progress: Progress, first: int, count: int, *, frozen: bool = False) -> list[float]:
    numbers = Numbers(1e-2, 0.1, 0.9, 0.04, 0.05, frozen)
    return [take_step(progress, [Part(number)], numbers).total.item() for number in range(first, first + count)]


def copies(progress: Progress) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors_of(progress).items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_restored_goes_on_as_the_original(dtype: torch.dtype) -> None:
    """Into networks drawn from another seed; with float16 the scaler's state counts too."""
    progress = begin(RECIPE, WORLD, dtype)
    progress.scaler.load_state_dict(progress.scaler.state_dict() | {"scale": 128.0} if progress.scaler.is_enabled() else {})
    stepped(progress, 0, 3)
    saved = copies(progress)
    assert ("scaler.scale" in saved) == (dtype == torch.float16)
    other = begin(replace(RECIPE, run=replace(RECIPE.run, seed=1)), WORLD, dtype)
    assert not tensors_of(other)["student.head.mlp.0.weight"].equal(saved["student.head.mlp.0.weight"])
    restore(other, saved)
    assert_same(copies(other), saved)
    assert stepped(other, 3, 2) == stepped(progress, 3, 2)
    assert_same(copies(other), copies(progress))
    assert other.scaler.state_dict() == progress.scaler.state_dict()


def test_there_are_moments_of_all_that_is_trained() -> None:
    progress = begin(RECIPE, WORLD, torch.float32)
    before = set(tensors_of(progress))
    stepped(progress, 0, 1)
    trained = {name.removeprefix("student.") for name in before if name.startswith("student.")}
    moments = {f"optimiser.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in trained}
    assert set(tensors_of(progress)) - before == moments


def test_the_frozen_layer_has_no_moments_yet() -> None:
    progress = begin(RECIPE, WORLD, torch.float32)
    stepped(progress, 0, 2, frozen=True)
    saved = copies(progress)
    assert not [name for name in saved if name.startswith("optimiser.") and "last_layer" in name]
    other = begin(RECIPE, WORLD, torch.float32)
    restore(other, saved)
    assert stepped(other, 2, 2) == stepped(progress, 2, 2)
    assert_same(copies(other), copies(progress))


def test_what_does_not_fit_is_refused() -> None:
    progress = begin(RECIPE, WORLD, torch.float32)
    saved = copies(progress)
    less = {name: tensor for name, tensor in saved.items() if name != "teacher.backbone.norm.bias"}
    for tensors, named in (
        (less, r"backbone\.norm\.bias"),
        (saved | {"student.extra": torch.zeros(1)}, "extra"),
        (saved | {"student.mask_token": torch.zeros(1, 65)}, "mask_token"),
        ({name: tensor for name, tensor in saved.items() if name != "patch_centre"}, "patch_centre"),
        (saved | {"cls_centre": torch.zeros(13)}, "13"),
    ):
        with pytest.raises(StoreError, match=f"does not hold the networks of this recipe: .*{named}"):
            restore(progress, tensors)


@pytest.mark.parametrize("sharing", ["shared", "separate", "semi-shared"])
def test_what_a_step_leaves_fits_its_recipe(sharing: Any) -> None:
    recipe = replace(RECIPE, head=replace(RECIPE.head, sharing=sharing, patch_patterns=12))
    progress = begin(recipe, WORLD, torch.float16)
    assert misfit(tensors_of(progress), recipe) == ""
    stepped(progress, 0, 1)
    saved = tensors_of(progress) | {CLUSTERS: torch.zeros(5, 3, dtype=torch.int64)}
    assert any(name.startswith("optimiser.") for name in saved)
    assert any(name.startswith("scaler.") for name in saved)
    assert misfit(saved, recipe) == ""


def test_what_does_not_fit_a_recipe_is_named() -> None:
    progress = begin(RECIPE, WORLD, torch.float32)
    stepped(progress, 0, 1)
    saved, moment = copies(progress), "optimiser.exp_avg.backbone.norm.bias"
    for changes, said in (
        ({"teacher.backbone.norm.bias": None}, "teacher.backbone.norm.bias is not there"),
        ({"patch_centre": None}, "patch_centre is not there"),
        ({moment: None}, f"{moment} is not there"),
        ({"student.extra": torch.zeros(1)}, "student.extra is left over"),
        ({"optimiser.speed.backbone.norm.bias": torch.zeros(64)}, "optimiser.speed.backbone.norm.bias is left over"),
        ({"student.mask_token": torch.zeros(1, 65)}, "student.mask_token is (1, 65), should be (1, 64)"),
        ({"cls_centre": torch.zeros(13)}, "cls_centre is (13,), should be (12,)"),
        ({moment: torch.zeros(3)}, f"{moment} is (3,), should be (64,)"),
        ({moment: torch.zeros(64).half()}, f"{moment} is torch.float16, should be torch.float32"),
        ({CLUSTERS: torch.zeros(2, 4, dtype=torch.int64)}, "clusters is (2, 4), should be (2, 3)"),
        ({CLUSTERS: torch.zeros(2, 3)}, "clusters is torch.float32, should be torch.int64"),
        ({CLUSTERS: torch.tensor(1)}, "clusters is (), should be (3,)"),
    ):
        tensors = {name: tensor for name, tensor in (saved | changes).items() if tensor is not None}
        assert misfit(tensors, RECIPE) == said


def test_under_takes_off_the_beginning() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert under({"a.b": one, "ab": two, "a.a.c": two}, "a.") == {"b": one, "a.c": two}
