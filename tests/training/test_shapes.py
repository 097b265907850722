"""A network and its head are known by the numbers that a recipe would have to have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ibot_hub.backbones import build_backbone, build_head
from ibot_hub.errors import TrainingError
from ibot_hub.loading import load
from ibot_hub.model import Card, Model
from ibot_hub.naming import split_head
from ibot_hub.origin import Origin
from ibot_hub.weights import Weights
from ibot_training.loop import transform_of
from ibot_training.networks import Learner
from ibot_training.recipe import Network, ProjectionHead, Recipe
from ibot_training.recipe_file import load_recipe
from ibot_training.shapes import check_shape, shape_of_model, shape_of_recipe

VIT = Network(image_size=64, patch_size=8, embed_dim=128, depths=(3,), heads=(2,))
SWIN = Network(arch="swin", patch_size=4, embed_dim=8, depths=(2, 1, 3, 1), heads=(1, 1, 2, 4), window_size=14)
HEAD = ProjectionHead(patterns=12, patch_patterns=10, hidden_dim=16, bottleneck_dim=8)


def models_of(recipe: Recipe) -> list[Model]:
    """Student and teacher as `ibot_hub.load` would open them."""
    models = []
    for student in (True, False):
        torch.manual_seed(0)
        state = Learner(recipe.network, recipe.head, student=student).state_dict()
        state.pop("mask_token", None)
        weights = Weights(*split_head(state), None, Origin())
        backbone = build_backbone(weights, Path("made"))
        models.append(
            Model(backbone, build_head(weights, backbone, Path("made")), None, transform_of(recipe), Card("made", "", None))
        )  # fmt: skip
    return models


@pytest.mark.parametrize("sharing", ["shared", "separate", "semi-shared"])
@pytest.mark.parametrize("network", [VIT, SWIN], ids=["vit", "swin"])
def test_a_model_has_the_shape_of_the_recipe_that_made_it(network: Network, sharing: Any) -> None:
    recipe = Recipe(name="made", network=network, head=replace(HEAD, sharing=sharing))
    shape = shape_of_model(*models_of(recipe))
    assert shape == shape_of_recipe(recipe)
    check_shape("it", shape, recipe)


def test_published_shapes_are_those_of_their_recipes(golden: Path) -> None:
    tiny = load("tiny")
    assert shape_of_model(tiny, tiny) == shape_of_recipe(load_recipe("tiny_cpu"))
    micro = load(golden / "vit_micro_checkpoint.pth")
    assert shape_of_model(micro, micro)["network.heads"] == (2,)


@pytest.mark.parametrize(
    ("other", "theirs", "ours"),
    [
        (Recipe(name="other", network=replace(VIT, depths=(4,)), head=HEAD), "network.depths=[3]", "network.depths=[4]"),
        (Recipe(name="other", network=replace(VIT, image_size=32), head=HEAD), "network.image_size=64", "network.image_size=32"),
        (Recipe(name="other", network=VIT, head=replace(HEAD, patterns=13)), "head.patterns=12", "head.patterns=13"),
        (Recipe(name="other", network=VIT, head=replace(HEAD, sharing="separate")), "head.sharing=shared", "head.sharing=separate"),
    ],
)
def test_what_differs_is_named(other: Recipe, theirs: str, ours: str) -> None:
    with pytest.raises(TrainingError) as caught:
        check_shape("org/name", shape_of_recipe(Recipe(name="made", network=VIT, head=HEAD)), other)
    assert str(caught.value) == (
        f"org/name has {theirs} where the recipe other has {ours}; --set what differs, or take another recipe."
    )  # fmt: skip


def test_all_that_differs_is_named_and_what_makes_no_other_tensors_is_not() -> None:
    made = Recipe(name="made", network=VIT, head=HEAD)
    other = replace(made, network=replace(VIT, drop_path=0.3, init_std=0.1), head=replace(HEAD, learn_lengths=False, patch_patterns=99))
    check_shape("it", shape_of_recipe(made), other)
    with pytest.raises(TrainingError, match=r"network\.arch=vit, network\.patch_size=8, network\.embed_dim=128, network\.depths=\[3\], "):
        check_shape("it", shape_of_recipe(made), Recipe(name="swin", network=SWIN, head=HEAD))
