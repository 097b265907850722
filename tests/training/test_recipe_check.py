"""Numbers that a recipe must not have are refused in one sentence that names them."""

from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

import pytest

from ibot_hub.errors import UsageError
from ibot_training.recipe import Recipe
from ibot_training.recipe_check import check

DEFAULT = Recipe(name="mine")
SWIN = replace(
    DEFAULT, network=replace(DEFAULT.network, arch="swin", patch_size=4, embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
)
TINY_STEP = 1e-9


def changed(recipe: Recipe, **values: Any) -> Recipe:
    """`recipe` with other numbers: loss__cls_weight=0."""
    for key, value in values.items():
        section, name = key.split("__")
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **{name: value})})
    return recipe


def bounded() -> list[tuple[str, str, str, float, bool]]:
    """(section, name, bound, limit, whole) of every bound of every number."""
    rows = []
    for section in fields(Recipe):
        if section.default is MISSING or not is_dataclass(section.default):
            continue
        for field in fields(section.default):
            first = field.default[0] if isinstance(field.default, tuple) else field.default
            rows += [(section.name, field.name, bound, limit, type(first) is int) for bound, limit in field.metadata["bounds"].items()]
    return rows


@pytest.mark.parametrize(("section", "name", "bound", "limit", "whole"), bounded())
def test_every_bound(section: str, name: str, bound: str, limit: float, whole: bool) -> None:
    step = 1 if whole else TINY_STEP
    outside = {"least": limit - step, "most": limit + step, "above": limit, "below": limit}[bound]
    default = getattr(getattr(DEFAULT, section), name)
    value = (*default[:-1], outside) if isinstance(default, tuple) else outside
    words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}[bound]
    with pytest.raises(UsageError, match=rf"^Recipe mine: {section}\.{name} is .*must be .*{words} {limit}\b"):
        check(changed(DEFAULT, **{f"{section}__{name}": value}))


def test_bounds_are_there_for_every_number() -> None:
    words = {"arch", "sharing", "pipeline", "shape", "precision", "parallel", "clip_by"}  # and masks.crops
    switches = {"learn_lengths", "centring", "patch_centring", "hard_labels", "checkpointing", "compile"}
    assert {f"{section}.{name}" for section, name, *_ in bounded()} == {
        f"{section.name}.{field.name}"
        for section in fields(Recipe)
        if is_dataclass(section.default)
        for field in fields(section.default)
        if field.name not in words | switches and f"{section.name}.{field.name}" != "masks.crops"
    }


@pytest.mark.parametrize(
    ("recipe", "values", "sentence"),
    [
        (DEFAULT, {"network__depths": (6, 6)}, "network.depths is [6, 6], network.heads [6]; a ViT has one number in each."),
        (DEFAULT, {"network__heads": (3, 3)}, "network.depths is [12], network.heads [3, 3]; a ViT has one number in each."),
        (
            DEFAULT,
            {"network__embed_dim": 512},
            "network.embed_dim is 512, network.heads [6]; in a ViT it must be 64 for each of its attention heads, 384 here.",
        ),
        (DEFAULT, {"network__image_size": 230}, "network.image_size is 230; it must be a multiple of network.patch_size, 16."),
        (SWIN, {"network__init_std": 0.06}, "network.init_std is 0.06; a Swin is always drawn with 0.02."),
        (SWIN, {"network__depths": (2, 2, 6)}, "network.depths is [2, 2, 6], network.heads [3, 6, 12, 24]; a Swin has one number a stage"),
        (SWIN, {"network__depths": (), "network__heads": ()}, "network.depths is [], network.heads []; a Swin has one number a stage"),
        (SWIN, {"network__patch_size": 8}, "network.patch_size is 8 with 4 stages, which makes last tokens of 64 px; those of a Swin must"),
        (SWIN, {"network__heads": (3, 6, 12, 25)}, "network.heads has 25 at stage 3, whose width 768 is no multiple of that."),
        (
            DEFAULT,
            {"head__sharing": "semi-shared", "head__patterns": 4096},
            "head.patch_patterns is 8192; with sharing semi-shared it must be head.patterns, 4096, because the teacher has one last layer.",
        ),
        (DEFAULT, {"crops__global_size": 200}, "crops.global_size is 200; it must be a multiple of 16 px, what a mask hides as one."),
        (DEFAULT, {"crops__local_size": 100}, "crops.local_size is 100; it must be a multiple of 16 px"),
        (SWIN, {"crops__local_size": 80}, "crops.local_size is 80; it must be a multiple of 32 px"),
        (
            DEFAULT,
            {"crops__global_scale": (1.0, 0.25)},
            "crops.global_scale is [1.0, 0.25]; it goes from the smaller number to the larger.",
        ),
        (DEFAULT, {"crops__local_scale": (0.3, 0.2)}, "crops.local_scale is [0.3, 0.2]; it goes"),
        (DEFAULT, {"augmentation__blur_radius": (2.0, 0.1)}, "augmentation.blur_radius is [2.0, 0.1]; it goes"),
        (
            DEFAULT,
            {"masks__ratios": (0.3,)},
            "masks.ratios is [0.3], masks.spreads [0.0, 0.2]; each ratio, one at least, needs its spread.",
        ),
        (DEFAULT, {"masks__ratios": (), "masks__spreads": ()}, "masks.ratios is [], masks.spreads []; each ratio, one at least"),
        (DEFAULT, {"masks__ratios": (0.0, 0.1)}, "masks.ratios has 0.1 with 0.2 in masks.spreads, which leaves 0 to 1."),
        (DEFAULT, {"masks__ratios": (0.0, 0.9)}, "masks.ratios has 0.9 with 0.2 in masks.spreads, which leaves 0 to 1."),
        (
            DEFAULT,
            {"masks__ratios": (0.0,), "masks__spreads": (0.0,)},
            "masks.ratios is [0.0], so no patch is ever hidden; for [CLS] alone set loss.patch_weight to 0 too.",
        ),
        (DEFAULT, {"loss__cls_weight": 0.0, "loss__patch_weight": 0.0}, "loss.cls_weight and loss.patch_weight are both 0, so nothing is"),
        (
            DEFAULT,
            {"crops__global_count": 1, "crops__local_count": 0},
            "crops.global_count is 1 and crops.local_count 0, but the [CLS] loss compares two crops; add one, or set loss.cls_weight to 0.",
        ),
        (DEFAULT, {"run__accumulate": 3}, "optimiser.batch_size is 1024; run.accumulate, 3, must divide it."),
        (DEFAULT, {"optimiser__min_lr": 0.003}, "optimiser.min_lr is 0.003, above the height of the learning rate, 0.002 (optimiser.lr"),
    ],
)
def test_numbers_that_contradict_each_other(recipe: Recipe, values: dict[str, Any], sentence: str) -> None:
    check(recipe)
    with pytest.raises(UsageError) as caught:
        check(changed(recipe, **values))
    assert str(caught.value).startswith(f"Recipe mine: {sentence}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"optimiser__epochs": 1},  # shorter than every warm-up
        {"optimiser__epochs": 3, "masks__start_epoch": 50},
        {"head__patterns": 1000},  # one shared layer: K for patches is not used
        {"head__sharing": "separate", "head__patterns": 1000},
        {"crops__local_count": 0, "crops__local_size": 100},  # no local crop has that size
        {"crops__global_count": 1, "crops__local_count": 0, "loss__cls_weight": 0.0},
        {"crops__global_count": 1, "crops__local_count": 1},
        {"loss__patch_weight": 0.0, "masks__ratios": (0.0,), "masks__spreads": (0.0,)},
        {"masks__ratios": (0.7,), "masks__spreads": (0.3,)},
        {"crops__global_scale": (1.0, 1.0)},
        {"run__accumulate": 1024},
    ],
)
def test_what_is_no_contradiction(values: dict[str, Any]) -> None:
    check(changed(DEFAULT, **values))
