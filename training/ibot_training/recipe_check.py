"""Numbers that a recipe must not have, or not together."""

import operator
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import chain

from ibot_hub.errors import UsageError
from ibot_training.recipe import Network, Pair, Recipe

BOUNDS = {
    "least": (operator.ge, "at least"), "most": (operator.le, "at most"), "above": (operator.gt, "above"), "below": (operator.lt, "below")
}  # fmt: skip
VIT_HEAD = 64  # width of an attention head; a ViT is opened without being told how many it has
SWIN_CELL = 32  # pixels; what a mask hides of a Swin's image, and a token of its last stage


def check(recipe: Recipe) -> None:
    """Raises UsageError with one sentence about the first number out of its bounds, or the first ones that contradict each other.

    Schedules longer than the run are no contradiction: short runs cut them. `head.patch_patterns` is not looked at where the head
    is shared.
    """
    rules = (_bounds, _network, _head, _crops, _masks, _loss, _optimiser)
    sentence = next(chain.from_iterable(rule(recipe) for rule in rules), None)
    if sentence:
        raise UsageError(f"Recipe {recipe.name}: {sentence}")


def _bounds(recipe: Recipe) -> Iterator[str]:
    for section in fields(recipe):
        numbers = getattr(recipe, section.name)
        for field in fields(numbers) if is_dataclass(numbers) else ():
            value, bounds = getattr(numbers, field.name), field.metadata["bounds"]
            every = list(value) if isinstance(value, tuple) else [value]
            if not all(BOUNDS[bound][0](one, limit) for bound, limit in bounds.items() for one in every):
                said = " and ".join(f"{BOUNDS[bound][1]} {limit}" for bound, limit in bounds.items())
                shown = f"is {value}; it" if every == [value] else f"is {every}; each"
                yield f"{section.name}.{field.name} {shown} must be {said}."


def _network(recipe: Recipe) -> Iterator[str]:
    network = recipe.network
    stages = len(network.depths)
    if network.arch == "vit":
        if stages != 1 or len(network.heads) != 1:
            yield f"network.depths is {list(network.depths)}, network.heads {list(network.heads)}; a ViT has one number in each."
        if network.embed_dim != VIT_HEAD * network.heads[0]:
            wanted = f"in a ViT it must be {VIT_HEAD} for each of its attention heads, {VIT_HEAD * network.heads[0]} here"
            yield f"network.embed_dim is {network.embed_dim}, network.heads {list(network.heads)}; {wanted}."
        if network.image_size % network.patch_size:
            yield f"network.image_size is {network.image_size}; it must be a multiple of network.patch_size, {network.patch_size}."
        return
    if network.init_std != Network.init_std:
        yield f"network.init_std is {network.init_std}; a Swin is always drawn with {Network.init_std}."
    if not stages or len(network.heads) != stages:
        yield f"network.depths is {list(network.depths)}, network.heads {list(network.heads)}; a Swin has one number a stage in each."
    if network.cell != SWIN_CELL:
        yield (
            f"network.patch_size is {network.patch_size} with {stages} stages, which makes last tokens of {network.cell} px; "
            f"those of a Swin must have {SWIN_CELL} px, as much as a mask hides (patch_size 4 with 4 stages)."
        )
    for stage, heads in enumerate(network.heads):
        if network.embed_dim * 2**stage % heads:
            yield f"network.heads has {heads} at stage {stage}, whose width {network.embed_dim * 2**stage} is no multiple of that."


def _head(recipe: Recipe) -> Iterator[str]:
    head = recipe.head
    if head.sharing == "semi-shared" and head.patch_patterns != head.patterns:
        yield (
            f"head.patch_patterns is {head.patch_patterns}; with sharing semi-shared it must be head.patterns, {head.patterns}, "
            "because the teacher has one last layer."
        )


def _crops(recipe: Recipe) -> Iterator[str]:
    crops, cell = recipe.crops, recipe.network.cell
    for key, size, count in (("global_size", crops.global_size, crops.global_count), ("local_size", crops.local_size, crops.local_count)):
        if count and size % cell:
            yield f"crops.{key} is {size}; it must be a multiple of {cell} px, what a mask hides as one."
    yield from _rising("crops.global_scale", crops.global_scale)
    yield from _rising("crops.local_scale", crops.local_scale)
    yield from _rising("augmentation.blur_radius", recipe.augmentation.blur_radius)


def _rising(key: str, pair: Pair) -> Iterator[str]:
    if pair[0] > pair[1]:
        yield f"{key} is {list(pair)}; it goes from the smaller number to the larger."


def _masks(recipe: Recipe) -> Iterator[str]:
    masks = recipe.masks
    if not masks.ratios or len(masks.ratios) != len(masks.spreads):
        yield f"masks.ratios is {list(masks.ratios)}, masks.spreads {list(masks.spreads)}; each ratio, one at least, needs its spread."
    for ratio, spread in zip(masks.ratios, masks.spreads, strict=True):
        if not spread <= ratio <= 1 - spread:
            yield f"masks.ratios has {ratio} with {spread} in masks.spreads, which leaves 0 to 1."
    if recipe.loss.patch_weight and not any(masks.ratios):
        yield f"masks.ratios is {list(masks.ratios)}, so no patch is ever hidden; for [CLS] alone set loss.patch_weight to 0 too."


def _loss(recipe: Recipe) -> Iterator[str]:
    loss, crops = recipe.loss, recipe.crops
    if not loss.cls_weight and not loss.patch_weight:
        yield "loss.cls_weight and loss.patch_weight are both 0, so nothing is learned."
    if loss.cls_weight and crops.global_count + crops.local_count < 2:
        yield (
            "crops.global_count is 1 and crops.local_count 0, but the [CLS] loss compares two crops; "
            "add one, or set loss.cls_weight to 0."
        )  # fmt: skip


def _optimiser(recipe: Recipe) -> Iterator[str]:
    optimiser, parts = recipe.optimiser, recipe.run.accumulate
    if optimiser.batch_size % parts:
        yield f"optimiser.batch_size is {optimiser.batch_size}; run.accumulate, {parts}, must divide it."
    peak = optimiser.lr * optimiser.batch_size / 256
    if optimiser.min_lr > peak:
        yield (
            f"optimiser.min_lr is {optimiser.min_lr}, above the height of the learning rate, {peak:g} "
            f"(optimiser.lr {optimiser.lr} for 256 images, {optimiser.batch_size} a step)."
        )
