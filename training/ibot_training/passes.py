"""How a batch goes through the student: at once, or a few crops at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ibot_training.losses import patch_weights
from ibot_training.networks import Shown
from ibot_training.recipe import Recipe

KEPT = 22  # numbers that a block keeps of a token for the backward pass, in units of its width
PASS_BYTES = 400 * 2**20  # of activations that a CPU keeps at a time


class Crops(Protocol):
    """The share of a batch that goes through the networks at once; see `ibot_training.batches.Batch`."""

    @property
    def global_crops(self) -> Tensor: ...  # [G * B, 3, S, S], normalised, view by view
    @property
    def local_crops(self) -> Tensor | None: ...  # [L * B, 3, s, s]
    @property
    def global_masks(self) -> Tensor: ...  # bool [G * B, H, W], on the host
    @property
    def local_masks(self) -> Tensor | None: ...  # bool [L * B, h, w], on the host
    @property
    def drops(self) -> Tensor: ...  # uniform [(G + L) * B, 2 * blocks]


def shown(part: Crops, device: torch.device) -> Shown:
    """All crops of a part with their masks, and the places of the hidden patches."""
    crops = [part.global_crops] + ([part.local_crops] if part.local_crops is not None else [])
    on_host = [part.global_masks] + ([part.local_masks] if part.local_masks is not None else [])
    hidden = torch.cat([mask.flatten() for mask in on_host]).nonzero().flatten()  # found on the host: nothing waits for the device
    masks = [mask.to(device, non_blocking=True) for mask in on_host]
    padded = [*masks, *[None] * (len(crops) - len(masks))]
    return Shown([crop.to(device, non_blocking=True) for crop in crops], padded, hidden.to(device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class Pass:
    """What goes through the student at once: crops of some of the images."""

    shown: Shown
    drops: Tensor  # [crops, 2 * blocks]
    global_crops: int  # how many of the crops are the teacher's own; they come first
    images: slice  # of the part, whose crops these are
    patches: Tensor  # int64 [M], which of all hidden patches these are
    weights: Tensor  # [M], of the hidden patches


def passes_of(recipe: Recipe, everything: Shown, part: Crops, dtype: torch.dtype) -> list[Pass]:
    """All crops at once on a GPU, which wants large products; a CPU takes sizes and images apart, and keeps the activations of few."""
    masks = [part.global_masks] + ([part.local_masks] if part.local_masks is not None else [])
    weights = patch_weights(masks).to(everything.crops[0].device, non_blocking=True)
    drops = part.drops.to(everything.crops[0].device, non_blocking=True)
    if everything.crops[0].device.type == "cuda":
        return [_together(recipe, everything, drops, weights)]
    return list(_apart(recipe, everything, masks, drops, weights, dtype))


def _together(recipe: Recipe, everything: Shown, drops: Tensor, weights: Tensor) -> Pass:
    count = len(everything.crops[0])
    images = count // recipe.crops.global_count
    return Pass(everything, drops, count, slice(images), torch.arange(len(weights), device=weights.device), weights)


def _apart(
    recipe: Recipe, everything: Shown, masks: Sequence[Tensor], drops: Tensor, weights: Tensor, dtype: torch.dtype
) -> Iterator[Pass]:
    """The global crops come last: they use every weight, so that gradients are averaged over processes with them."""
    count = len(everything.crops[0])
    images = count // recipe.crops.global_count
    for size in reversed(range(len(everything.crops))):
        crops, own_drops = everything.crops[size], drops[count:] if size else drops[:count]
        before = int(masks[0].sum()) if size else 0  # hidden patches of the sizes that come first in their order
        for chosen in _chunks(recipe, crops, images, dtype):
            mask, rows, wanted = None, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
            if size < len(masks):
                hidden, rows = _hidden_of(masks[size], images, chosen)
                mask, wanted = hidden.to(crops.device), hidden.flatten().nonzero().flatten()
            few = Shown([_of_images(crops, images, chosen)], [mask], wanted.to(crops.device))
            own, rows = 0 if size else len(few.crops[0]), (rows + before).to(crops.device)
            yield Pass(few, _of_images(own_drops, images, chosen), own, chosen, rows, weights[rows])


def _chunks(recipe: Recipe, crops: Tensor, images: int, dtype: torch.dtype) -> list[slice]:
    """Images whose crops of one size [V * B, 3, S, S] go through the student together."""
    network = recipe.network
    tokens = crops[:, 0].numel() // network.patch_size**2
    width = sum(depth * (network.embed_dim << stage >> 2 * stage) for stage, depth in enumerate(network.depths))  # a Swin merges four
    count = min(images, math.ceil(tokens * width * KEPT * dtype.itemsize / PASS_BYTES))
    size = math.ceil(images / count)
    return [slice(start, min(start + size, images)) for start in range(0, images, size)]


def _of_images(rows: Tensor, images: int, chosen: slice) -> Tensor:
    """View-major rows [V * B, ...] -> those of some images, view-major too."""
    chosen_rows: Tensor = rows.unflatten(0, (-1, images))[:, chosen]
    return chosen_rows.flatten(0, 1)


def _hidden_of(masks: Tensor, images: int, chosen: slice) -> tuple[Tensor, Tensor]:
    """The masks of some images, and where their hidden patches stand among those of all masks [V * B, H, W]: int64 [M]."""
    mask = _of_images(masks, images, chosen)
    places = masks.flatten().cumsum(0).view(masks.shape) - 1
    return mask, _of_images(places, images, chosen)[mask]
