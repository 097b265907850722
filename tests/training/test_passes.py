"""What goes through the student at once: every crop, mask and hidden patch of a batch exactly once."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import ibot_training.passes
from ibot_training.losses import patch_weights
from ibot_training.passes import passes_of, shown
from ibot_training.recipe import Crops, Network, Recipe

RECIPE = Recipe(
    name="r",
    network=Network(patch_size=16, embed_dim=64, depths=(2,), heads=(1,)),
    crops=Crops(global_size=64, local_count=3, local_size=32),
)
IMAGES = 5


@dataclass(frozen=True)
class Part:
    global_crops: Tensor
    local_crops: Tensor | None
    global_masks: Tensor
    local_masks: Tensor | None
    drops: Tensor


def part(*, local_masks: bool = True) -> Part:
    """Crops that hold their own number in every pixel, and rows of drops that do."""
    draw = torch.Generator().manual_seed(0)
    crops = torch.arange(5 * IMAGES, dtype=torch.float32)
    return Part(
        crops[: 2 * IMAGES, None, None, None].expand(-1, 3, 64, 64), crops[2 * IMAGES :, None, None, None].expand(-1, 3, 32, 32),
        torch.rand(2 * IMAGES, 4, 4, generator=draw) < 0.3,
        torch.rand(3 * IMAGES, 2, 2, generator=draw) < 0.3 if local_masks else None,
        crops[:, None].expand(-1, 4),
    )  # fmt: skip


@pytest.mark.parametrize("limit", [1, 3 * 64 * 2 * 17 * 2 * 22 * 4, 2**40])
@pytest.mark.parametrize("local_masks", [True, False])
def test_every_crop_and_every_hidden_patch_goes_through_once(limit: int, local_masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ibot_training.passes, "PASS_BYTES", limit)
    batch = part(local_masks=local_masks)
    everything = shown(batch, torch.device("cpu"))
    passes = passes_of(RECIPE, everything, batch, torch.float32)
    assert len(passes) == {1: 2 * IMAGES, 2**40: 2}.get(limit, len(passes))
    seen, rows = [], []
    masks = [batch.global_masks] + ([batch.local_masks] if batch.local_masks is not None else [])
    hidden = torch.cat(
        [mask.flatten(1).nonzero()[:, 0] + first for mask, first in zip(masks, (0, 2 * IMAGES), strict=False)]
    )  # crop of each
    for one in passes:
        numbers = one.shown.crops[0][:, 0, 0, 0]
        assert torch.equal(numbers, one.drops[:, 0])
        assert torch.equal(numbers % IMAGES, torch.arange(IMAGES)[one.images].repeat(len(numbers) // len(range(IMAGES)[one.images])))
        assert one.global_crops == (len(numbers) if numbers[0] < 2 * IMAGES else 0)
        side = one.shown.crops[0].shape[2] // 16
        owners = numbers[one.shown.wanted // side**2].long()
        assert torch.equal(hidden[one.patches], owners)  # each patch finds what the teacher says of it
        assert torch.equal(one.weights, patch_weights(masks)[one.patches])
        seen += numbers.tolist()
        rows += one.patches.tolist()
    assert sorted(seen) == list(range(5 * IMAGES))
    assert sorted(rows) == list(range(int(sum(mask.sum() for mask in masks))))
    assert passes[-1].global_crops  # the last uses every weight


def test_a_gpu_takes_all_at_once() -> None:
    batch = part()
    everything = shown(batch, torch.device("cpu"))
    weights = patch_weights([batch.global_masks])
    one = ibot_training.passes._together(RECIPE, everything, batch.drops, weights)
    assert (one.shown, one.global_crops, one.images) == (everything, 2 * IMAGES, slice(IMAGES))
    assert torch.equal(one.patches, torch.arange(len(weights)))
