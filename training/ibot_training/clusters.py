"""How well the patterns that the teacher finds in images agree with their classes."""

import sys
from dataclasses import asdict
from functools import cache
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from ibot_hub.evaluation.agreement import Counts, summed
from ibot_hub.evaluation.agreement import agreement as measured

PENDING = 2**20  # images that wait to be counted


class Clusters:
    """Images of an epoch counted by pattern and class; memory grows with the pairs that occur, not with the images."""

    def __init__(self) -> None:
        self._counts: Counts = np.empty((0, 3), dtype=np.int64)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._waiting = 0  # images in `_pending`

    def add(self, patterns: Tensor, labels: Tensor) -> None:
        """Count images by the pattern [B] to which the teacher puts their first crop, int64 on any device, and their class [B].

        It waits for the device once in a million images.
        """
        self._pending.append((patterns, labels))
        self._waiting += len(patterns)
        if self._waiting >= PENDING:
            self.counts()

    def merge(self, counts: Counts) -> None:
        """Count what another process counted, or this one before it was stopped: its `counts()`."""
        self._counts = summed(np.concatenate([self._counts, counts]))

    def counts(self) -> Counts:
        """All images so far, [pairs, 3]."""
        if self._pending:
            columns = [torch.cat(column).cpu().numpy() for column in zip(*self._pending, strict=True)]
            self._pending, self._waiting = [], 0
            self.merge(np.column_stack([*columns, np.ones(len(columns[0]), dtype=np.int64)]))
        return self._counts


def agreement(counts: Counts) -> dict[str, float]:
    """NMI (by the arithmetic mean), adjusted Rand index and Fowlkes-Mallows index, each at most 1 (Fig. 8).

    Empty without images, and without scikit-learn, which is then said once.
    """
    return asdict(measured(counts)) if len(counts) and _measurable() else {}


@cache
def _measurable() -> bool:
    try:
        import_module("sklearn.metrics")
    except ImportError:
        advice = "pip install 'ibot-hub[train]' installs it"
        print(f"scikit-learn is not installed, so NMI, ARI and FMI are left out; {advice}.", file=sys.stderr)
        return False
    return True
