"""Masks have the official statistics, on every grid, and lie on the views that the recipe names."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ibot_training.masking import Mask, draw_mask, masks_of
from ibot_training.recipe import Masks, Network, Recipe

DRAWS = 4000
SIGMAS = 4  # of the difference of two means of DRAWS draws: ours, and the one that is quoted


def fixed(ratio: float, shape: str = "block") -> Masks:
    return Masks(shape=shape, ratios=(ratio,), spreads=(0.0,))


def drawn(masks: Masks, grid: tuple[int, int] = (14, 14), count: int = DRAWS, epoch: int = 0) -> Mask:
    rng = np.random.default_rng(7)
    return np.stack([draw_mask(masks, grid, epoch, rng) for _ in range(count)])


@pytest.mark.parametrize(("ratio", "mean"), [(0.1, 17.6), (0.2, 38.1), (0.3, 57.3), (0.4, 77.5), (0.5, 97.5)])
def test_blocks_hide_what_the_official_ones_hide(ratio: float, mean: float) -> None:
    hidden = drawn(fixed(ratio)).sum(axis=(1, 2))
    bound = SIGMAS * hidden.std() * np.sqrt(2 / DRAWS) + 0.05  # the quoted mean is rounded
    assert abs(hidden.mean() - mean) < bound < 0.2
    assert hidden.max() <= ratio * 196


def test_the_papers_lists_leave_half_of_the_views_whole() -> None:
    shares = drawn(Masks()).mean(axis=(1, 2))
    assert abs((shares == 0).mean() - 0.5) < SIGMAS * 0.5 / np.sqrt(DRAWS)
    assert abs(shares.mean() - 0.145) < SIGMAS * shares.std() * np.sqrt(2 / DRAWS)
    assert 0.02 < shares[shares > 0].min() < 0.12
    assert 0.45 < shares.max() <= 0.5


def test_blocks_are_blocks() -> None:
    """A hidden cell has far more hidden neighbours than one of a random mask of the same share."""
    blocks, random = (drawn(fixed(0.3, shape), count=500) for shape in ("block", "random"))

    def neighbours(masks: Mask) -> float:
        return float((masks[:, 1:] & masks[:, :-1]).sum() / masks[:, 1:].sum())

    assert neighbours(blocks) > 0.7
    assert abs(neighbours(random) - 0.3) < 0.05


def test_blocks_reach_every_cell_and_both_aspects() -> None:
    hidden = drawn(fixed(0.1))
    share = hidden.mean(axis=0)
    assert share.min() > 0
    for mirrored in (share[::-1], share[:, ::-1], share.T):
        np.testing.assert_allclose(share, mirrored, atol=0.04)
    heights, widths = hidden.any(axis=2).sum(axis=1), hidden.any(axis=1).sum(axis=1)
    assert (heights > 2 * widths).mean() > 0.05
    assert (widths > 2 * heights).mean() > 0.05


@pytest.mark.parametrize(("ratio", "cells"), [(0.0, 0), (0.7, 137), (1.0, 196)])
def test_random_masks_hide_exactly_their_share(ratio: float, cells: int) -> None:
    hidden = drawn(fixed(ratio, "random"), count=400)
    assert set(hidden.sum(axis=(1, 2))) == {cells}
    np.testing.assert_allclose(hidden.mean(axis=0), cells / 196, atol=5 * 0.5 / np.sqrt(400))


@pytest.mark.parametrize("shape", ["block", "random"])
@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (3, 3), (8, 8), (2, 2), (1, 1), (6, 12)])
def test_small_grids(grid: tuple[int, int], shape: str) -> None:
    for ratio in (0.1, 0.5, 0.9, 1.0):
        hidden = drawn(fixed(ratio, shape), grid, count=100)
        assert hidden.shape == (100, *grid)
        assert hidden.sum(axis=(1, 2)).max() <= ratio * grid[0] * grid[1]
    assert drawn(fixed(0.5), (4, 4)).any()


def test_a_ratio_is_drawn_from_each_entry_as_often() -> None:
    shares = drawn(Masks(shape="random", ratios=(0.1, 0.4, 0.7), spreads=(0.0, 0.0, 0.1))).mean(axis=(1, 2))
    for low, high in ((0.09, 0.11), (0.39, 0.41), (0.59, 0.81)):
        assert abs(((shares > low) & (shares < high)).mean() - 1 / 3) < SIGMAS * 0.48 / np.sqrt(DRAWS)
    wide = shares[shares > 0.5]
    assert abs(wide.std() - 0.2 / np.sqrt(12)) < 0.005
    assert (wide.min() < 0.605, wide.max() > 0.79) == (True, True)


def test_nothing_is_hidden_before_the_start_epoch() -> None:
    masks = Masks(ratios=(0.3,), spreads=(0.0,), start_epoch=50)
    assert not drawn(masks, count=50, epoch=49).any()
    assert drawn(masks, count=50, epoch=50).any(axis=(1, 2)).all()


def test_the_same_seed_draws_the_same_masks() -> None:
    np.testing.assert_array_equal(drawn(Masks(), count=50), drawn(Masks(), count=50))


@pytest.fixture
def recipe() -> Callable[[str], Recipe]:
    return lambda crops: Recipe(name="test", masks=Masks(ratios=(0.3,), spreads=(0.0,), crops=crops))


def test_globals_are_masked_each_for_itself(recipe: Callable[[str], Recipe]) -> None:
    hidden, small = masks_of(recipe("globals"), 0, np.random.default_rng(0))
    assert (hidden.shape, hidden.dtype, small) == ((2, 14, 14), np.bool_, None)
    assert hidden.any(axis=(1, 2)).all()
    assert (hidden[0] != hidden[1]).any()


def test_one_global_is_either(recipe: Callable[[str], Recipe]) -> None:
    rng = np.random.default_rng(0)
    masked = np.array([masks_of(recipe("one global"), 0, rng)[0].any(axis=(1, 2)) for _ in range(400)])
    assert (masked.sum(axis=1) == 1).all()
    assert abs(masked[:, 0].mean() - 0.5) < SIGMAS * 0.5 / 20


def test_local_crops_are_masked_on_their_own_grid(recipe: Callable[[str], Recipe]) -> None:
    hidden, small = masks_of(recipe("all"), 0, np.random.default_rng(0))
    assert small is not None
    assert (hidden.shape, small.shape) == ((2, 14, 14), (10, 6, 6))
    assert small.any(axis=(1, 2)).all()
    assert len(np.unique(small.reshape(10, -1), axis=0)) > 5
    two_crops = replace(recipe("all"), crops=replace(recipe("all").crops, local_count=0))
    assert masks_of(two_crops, 0, np.random.default_rng(0))[1] is None


def test_a_swin_hides_cells_of_32_pixels() -> None:
    network = Network(arch="swin", patch_size=4, embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
    recipe = Recipe(name="test", network=network, masks=Masks(crops="all"))
    hidden, small = masks_of(recipe, 0, np.random.default_rng(0))
    assert small is not None
    assert (hidden.shape, small.shape) == ((2, 7, 7), (10, 3, 3))
