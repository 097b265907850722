"""What is hidden from the student: a mask for each view of an image."""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from ibot_training.recipe import Masks, Recipe

ATTEMPTS = 10  # to place a block; after that the mask stays as it is
LOG_ASPECT = math.log(1 / 0.3)  # a block's height is 0.3 to 1 / 0.3 times its width

Mask = npt.NDArray[np.bool_]


def masks_of(recipe: Recipe, epoch: int, rng: np.random.Generator) -> tuple[Mask, Mask | None]:
    """Masks of the views of one image: bool [G, H, W], and [L, h, w] of its local crops where these are masked too; True is hidden.

    Each masked view draws for itself (section 4.5 of the official facts, the paper's Fig. 7): both globals (b, the paper's way,
    given ratios of which one is 0), one of them at random (d), or every crop (c).
    """
    masks, crops, cell = recipe.masks, recipe.crops, recipe.network.cell
    grid = (crops.global_size // cell,) * 2
    if masks.crops == "one global":
        hidden = np.zeros((crops.global_count, *grid), dtype=np.bool_)
        hidden[rng.integers(crops.global_count)] = draw_mask(masks, grid, epoch, rng)
        return hidden, None
    hidden = np.stack([draw_mask(masks, grid, epoch, rng) for _ in range(crops.global_count)])
    if masks.crops == "globals" or not crops.local_count:
        return hidden, None
    small = (crops.local_size // cell,) * 2
    return hidden, np.stack([draw_mask(masks, small, epoch, rng) for _ in range(crops.local_count)])


def draw_mask(masks: Masks, grid: tuple[int, int], epoch: int, rng: np.random.Generator) -> Mask:
    """The mask of one view: bool [H, W] on a grid of H rows and W columns, True is hidden (official facts, section 4.5).

    One ratio is drawn; random masks hide exactly that share, rounded down, and blocks (as in BEiT) that share or a little less.
    """
    height, width = grid
    target = _ratio(masks, epoch, rng) * height * width  # cells, not rounded
    if target == 0:
        return np.zeros(grid, dtype=np.bool_)
    if masks.shape == "random":
        return (rng.permutation(height * width) < int(target)).reshape(grid)
    cells = _block_cells(target, height, width, rng)
    bits = np.frombuffer(cells.to_bytes(-(-height * width // 8), "little"), dtype=np.uint8)
    return np.unpackbits(bits, count=height * width, bitorder="little").reshape(grid).view(np.bool_)


def _ratio(masks: Masks, epoch: int, rng: np.random.Generator) -> float:
    if epoch < masks.start_epoch:
        return 0.0
    index = int(rng.integers(len(masks.ratios)))
    ratio, spread = masks.ratios[index], masks.spreads[index]
    return float(rng.uniform(ratio - spread, ratio + spread)) if spread > 0 else ratio


def _block_cells(target: float, height: int, width: int, rng: np.random.Generator) -> int:
    """Blocks of together at most `target` cells, as an integer: bit row * width + column is set where hidden.

    A grid is one integer, so that a block is placed and its new cells are counted without a loop over cells.
    """
    rows = _rows(height, width)
    least = (min(height, width) // 3) ** 2
    hidden, budget, misses = 0, target, 0
    for size, shape, top, left in _quadruples(rng):
        if budget <= 0 or misses == ATTEMPTS:
            break
        misses += 1
        root = math.sqrt(least + size * (budget - least))  # of an area between the two, whichever is larger
        stretch = math.exp((shape - 0.5) * LOG_ASPECT)  # the square root of height / width
        block_height, block_width = round(root * stretch), round(root / stretch)
        if block_height < height and block_width < width:
            corner = int(top * (height - block_height + 1)) * width + int(left * (width - block_width + 1))
            block = rows[block_height] * ((1 << block_width) - 1) << corner
            new = block_height * block_width - (block & hidden).bit_count()
            if 0 < new <= budget:
                hidden |= block
                budget -= new
                misses = 0
    return hidden


@cache
def _rows(height: int, width: int) -> tuple[int, ...]:
    """For each number of rows from 0 to `height`, the integer whose bits are the first cells of these rows."""
    return tuple(sum(1 << (row * width) for row in range(count)) for count in range(height + 1))


def _quadruples(rng: np.random.Generator) -> Iterator[list[float]]:
    """Four numbers of [0, 1) at a time, drawn many at once: a draw of numpy costs as much for one as for forty."""
    while True:
        yield from rng.random((2 * ATTEMPTS, 4)).tolist()
