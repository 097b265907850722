"""How well classes are told once the pieces of an image are shuffled."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibot_hub.evaluation.images import ImageBatch, network_of
from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.evaluation.options import ShuffleOptions
from ibot_hub.evaluation.robustness import accuracies
from ibot_hub.evaluation.table import Table
from ibot_hub.model import Model

Grid = tuple[int, int]  # rows and columns of pieces
GRIDS: tuple[Grid, ...] = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (14, 14), (16, 16))


@dataclass(frozen=True)
class ShuffleReport:
    """Top-1 in per cent of the images, for each grid; the first is that of the whole image."""

    grids: tuple[Grid, ...]
    top1: tuple[float, ...]
    images: int  # that could be read
    left_out: int  # that could not
    grids_left_out: tuple[Grid, ...]  # grids that do not divide the side of the images

    @property
    def table(self) -> Table:
        """A row for each grid."""
        title = f"shuffled pieces (Fig. 10): top-1 in per cent of {self.images} images"
        rows = [(f"{rows} x {columns}", rows * columns, top1) for (rows, columns), top1 in zip(self.grids, self.top1, strict=True)]
        return Table(title, ("grid", "pieces", "top-1"), tuple(rows))


def shuffle(model: Model, head: LinearHead, source: str | Path, options: ShuffleOptions | None = None, **changes: Any) -> ShuffleReport:
    """Cut every image into pieces, put them back in random order, and let the head name the class (Fig. 10).

    An image and a grid have one permutation, by seed and number (the official code draws one a batch). Grids that do not divide
    the side of the images are left out: 14 x 14 at 64 pixels.

    Args:
        head: trained on this model's features.
        source: class folders.
        options: `changes` are fields of it by name.

    Raises:
        UsageError, SourceError: as `accuracies`.
    """
    options = replace(options or ShuffleOptions(), **changes)
    network = network_of(model, options)
    width, height = network.transform.fit(1, 1).out
    grids = tuple(grid for grid in GRIDS if height % grid[0] == 0 and width % grid[1] == 0)

    def changed(batch: ImageBatch) -> Iterator[tuple[Grid, Tensor]]:
        yield grids[0], batch.images
        for grid in grids[1:]:
            orders = [np.random.default_rng((options.seed, row, *grid)).permutation(grid[0] * grid[1]) for row in batch.rows]
            yield grid, shuffled_pieces(batch.images, grid, torch.from_numpy(np.stack(orders)))

    found = accuracies(network, head, source, changed, "shuffling pieces")
    without = tuple(grid for grid in GRIDS if grid not in grids)
    return ShuffleReport(grids, tuple(found.top1[grid] for grid in grids), found.images, found.left_out, without)


def shuffled_pieces(images: Tensor, grid: Grid, order: Tensor) -> Tensor:
    """Images [B, 3, height, width] in pieces, of which place p of the answer holds piece order[b, p], int64 [B, rows * columns]."""
    rows, columns = grid
    pieces = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # [B, 3, rows, h, columns, w]
    pieces = pieces.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [B, rows * columns, 3, h, w]
    moved = pieces.gather(1, order.to(images.device)[:, :, None, None, None].expand_as(pieces))
    whole: Tensor = moved.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5)  # [B, 3, rows, h, columns, w]
    return whole.flatten(4, 5).flatten(2, 3)
