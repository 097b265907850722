"""A share of every class, drawn by a seed."""

import re
from collections.abc import Collection

import torch
from torch import Tensor

from ibot_hub.errors import UsageError


def parse_shares(text: str) -> list[float]:
    """Per cents with commas between, each above 0 and at most 100. Raises UsageError."""
    words = text.split(",")
    if not all(re.fullmatch(r"\d*\.?\d+", word) and 0 < float(word) <= 100 for word in words):
        raise UsageError(f"percent is {text!r}; it must be numbers above 0 and at most 100 with commas between, as in 1,10.")
    return [float(word) for word in words]


def drawn(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows of about that share of every class, at least one of each, ascending.

    Args:
        labels: whole numbers [N] from 0 on.
        share: above 0 and at most 1.
        seed: the same for the same labels gives the same rows.
    """
    if not 0 < share <= 1:
        raise UsageError(f"The share of the images is {share:g}; it must be above 0 and at most 1.")
    counts = labels.bincount()
    return _first(labels, (counts * share).round().long().clamp(min=1), seed)


def held_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows that stay and rows held out, both ascending: of every class about `share`, at least one, and never its last image.

    Raises UsageError where every class has one image.
    """
    counts = labels.bincount()
    check_held_out(counts.tolist())
    out = _first(labels, (counts * share).round().long().clamp(min=1).minimum(counts - 1), seed)
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[out] = False
    return stays.nonzero()[:, 0], out


def check_held_out(counts: Collection[int]) -> None:
    """Raises UsageError where every class has one image, so that none can be held out."""
    if max(counts) < 2:
        raise UsageError("Each class has one training image, so none can be held out to choose by; say --select validation.")


def _first(labels: Tensor, quota: Tensor, seed: int) -> Tensor:
    """The first `quota` [C] rows of each class in a random order, ascending."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # class by class, each in random order
    counts = labels.bincount()  # [C]
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]  # of each image in its class
    return order[place < quota[labels[order]]].sort().values
