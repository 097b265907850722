"""How well classes are told once patches are dropped: random ones, those that [CLS] attends to most, or least."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibot_hub.attention import cls_attention
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.images import ImageBatch, network_of
from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.evaluation.options import Drop, OcclusionOptions
from ibot_hub.evaluation.robustness import accuracies
from ibot_hub.evaluation.table import Table
from ibot_hub.model import Model
from ibot_hub.swin import Swin

TOLERANCE = 1e-6  # of a sum of attention in float32


@dataclass(frozen=True)
class OcclusionReport:
    """Top-1 in per cent of the images, and how much of them was dropped, for each share that is lost."""

    ratios: tuple[float, ...]  # shares that are lost, 0 the first: of the patches for random ones, else of the attention of [CLS]
    top1: dict[Drop, tuple[float, ...]]  # for each of `ratios`
    dropped: dict[Drop, tuple[float, ...]]  # per cent of the patches, the mean over the images
    images: int  # that could be read
    left_out: int  # that could not

    @property
    def table(self) -> Table:
        """A row for each share; beside each accuracy the per cent of patches that were dropped."""
        title = f"occlusion (Table 8, Fig. 9): top-1 in per cent of {self.images} images, and per cent of patches dropped"
        columns = [column for drop in self.top1 for column in (drop, "patches")]
        numbers = [column for drop in self.top1 for column in (self.top1[drop], self.dropped[drop])]
        rows = zip((f"{ratio:g}" for ratio in self.ratios), *numbers, strict=True)
        return Table(title, ("lost", *columns), tuple(rows))


def occlusion(
    model: Model, head: LinearHead, source: str | Path, options: OcclusionOptions | None = None, **changes: Any
) -> OcclusionReport:
    """Drop patches of every image in each way and share, and let the head name the class (Table 8, Fig. 9).

    Dropped patches are zero after normalisation. Random ones are a share of the patches: the first of one random order an image, by
    seed and number, so that a larger share takes the same ones and more (the official code draws one set a batch). Salient are the
    strongest patches that hold a share of the attention of [CLS], non-salient the weakest that hold no more. Attention is that of
    the model itself to the whole image, in its last block, the mean of the heads; the official code asks one head of another
    network, a DINO ViT-S.

    Args:
        model: a ViT, or a Swin where only random patches are dropped.
        head: trained on this model's features.
        source: class folders.
        options: `changes` are fields of it by name.

    Raises:
        UsageError: salient patches of a Swin; and as `accuracies`.
    """
    options = replace(options or OcclusionOptions(), **changes)
    check_drops(model, options)
    network = network_of(model, options)
    fit = network.transform.fit(1, 1)
    lost: dict[tuple[Drop, float], float] = dict.fromkeys(((drop, ratio) for drop in options.drops for ratio in options.lost), 0.0)

    def changed(batch: ImageBatch) -> Iterator[tuple[tuple[Drop, float] | None, Tensor]]:
        yield None, batch.images
        for drop in options.drops:
            if drop == "random":
                levels = random_levels(batch.rows, fit.rows * fit.columns, options.seed)
            else:
                levels = attention_levels(cls_attention(network.backbone, batch.images, (-1,))[0].mean(dim=1), drop)
            for ratio in options.lost[1:]:
                out = (levels <= ratio).unflatten(1, (fit.rows, fit.columns))  # [B, H, W]
                lost[drop, ratio] += float(out.double().mean(dim=(1, 2)).sum())
                yield (drop, ratio), without(batch.images, out)

    found = accuracies(network, head, source, changed, "dropping patches")
    return OcclusionReport(
        options.lost,
        {drop: tuple(found.top1[(drop, ratio) if ratio else None] for ratio in options.lost) for drop in options.drops},
        {drop: tuple(100 * lost[drop, ratio] / found.images for ratio in options.lost) for drop in options.drops},
        found.images,
        found.left_out,
    )


def check_drops(model: Model, options: OcclusionOptions) -> None:
    """Raises UsageError where salient patches are asked for of a Swin, which has no [CLS] that could attend to them."""
    if isinstance(model.backbone, Swin) and options.drops != ("random",):
        raise UsageError("A Swin has no [CLS], whose attention says which patches are salient; say --drop random, or take a ViT.")


def random_levels(rows: Sequence[int], patches: int, seed: int) -> Tensor:
    """From which share on each patch is dropped, float64 [B, patches] on the CPU; `rows` are the numbers of the images."""
    places = [np.random.default_rng((seed, row)).permutation(patches) for row in rows]  # each the place of every patch in a random order
    return (torch.from_numpy(np.stack(places)) + 0.5) / patches  # half up: of 64 patches a tenth is 6


def attention_levels(attention: Tensor, drop: Drop) -> Tensor:
    """From which share of the attention [B, H, W] on each patch is dropped, float64 [B, H * W] on the CPU.

    Salient: above the share that the stronger ones hold, so that those dropped hold at least what is asked for. Non-salient: from the
    share that it and the weaker ones hold, so that those kept are what is salient at the rest.
    """
    weights = attention.flatten(1).cpu().double()
    weights = weights / weights.sum(dim=1, keepdim=True)
    order = weights.argsort(dim=1, descending=drop == "salient", stable=True)
    ordered = weights.gather(1, order)
    sums = ordered.cumsum(dim=1)  # what a patch and those before it hold
    levels = sums - ordered + TOLERANCE if drop == "salient" else sums - TOLERANCE
    return torch.empty_like(sums).scatter_(1, order, levels.clamp(max=1.0))


def without(images: Tensor, dropped: Tensor) -> Tensor:
    """Normalised images [B, 3, height, width], zero where bool [B, H, W] is true of their patches."""
    rows, columns = (length // count for length, count in zip(images.shape[2:], dropped.shape[1:], strict=True))
    pixels = dropped.to(images.device).repeat_interleave(rows, 1).repeat_interleave(columns, 2)  # [B, height, width]
    return images.masked_fill(pixels[:, None], 0.0)
