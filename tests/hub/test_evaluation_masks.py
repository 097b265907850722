"""J and F of masks whose answers are known, and as morphology gives them."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from ibot_hub.evaluation.masks import Mask, contour, contour_accuracy, region_similarity


def square(top: int, left: int, side: int, height: int = 100, width: int = 120) -> Mask:
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def blobs(seed: int) -> Mask:
    """Round things of random places and sizes, some over the edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :140]
    mask = np.zeros((90, 140), dtype=bool)
    for _ in range(3):
        mask |= (y - rng.uniform(0, 90)) ** 2 + (x - rng.uniform(0, 140)) ** 2 < rng.uniform(5, 30) ** 2
    return mask


def test_regions() -> None:
    one = square(10, 10, 20)
    assert region_similarity(one, one) == 1
    assert region_similarity(one, square(10, 20, 20)) == pytest.approx(200 / 600)
    assert region_similarity(one, square(60, 60, 20)) == 0
    nothing = np.zeros_like(one)
    assert (region_similarity(nothing, one), region_similarity(nothing, nothing)) == (0, 1)


def test_the_contour_lies_along_the_edge() -> None:
    seen = contour(square(2, 3, 2, 6, 7))
    expected = np.zeros((6, 7), dtype=bool)
    expected[1, 2:5] = expected[2, 2] = expected[2, 4] = expected[3, 2:5] = True  # above and left of the edge, and inside below and right
    assert np.array_equal(seen, expected)
    assert not contour(np.ones((5, 6), dtype=bool)).any()
    cut = contour(square(3, 4, 9, 6, 7))  # over the corner of the image
    assert np.argwhere(cut).tolist() == [[2, 3], [2, 4], [2, 5], [2, 6], [3, 3], [4, 3], [5, 3]]


def test_contours_that_are_near_enough_count() -> None:
    """0.008 of the diagonal of 100 x 120 pixels are 1.25, two whole ones."""
    one = square(30, 30, 40)
    assert contour_accuracy(one, one) == 1
    assert contour_accuracy(square(30, 32, 40), one) == 1
    assert 0 < contour_accuracy(square(30, 33, 40), one) < 1
    assert contour_accuracy(square(5, 5, 10), one) == 0


def test_without_a_contour() -> None:
    one, nothing = square(30, 30, 40), np.zeros((100, 120), dtype=bool)
    assert (contour_accuracy(nothing, one), contour_accuracy(one, nothing), contour_accuracy(nothing, nothing)) == (0, 0, 1)


@pytest.mark.parametrize("seed", range(6))
def test_contour_accuracy_is_that_of_dilated_contours(seed: int) -> None:
    one, other = blobs(seed), np.roll(blobs(seed), (seed, 2), axis=(0, 1))
    radius = math.ceil(0.008 * math.hypot(90, 140))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = y**2 + x**2 <= radius**2
    lines = contour(one), contour(other)
    wide = [binary_dilation(line, disk) for line in lines]
    precision, recall = (lines[0] & wide[1]).sum() / lines[0].sum(), (lines[1] & wide[0]).sum() / lines[1].sum()
    assert contour_accuracy(one, other) == pytest.approx(2 * precision * recall / (precision + recall))
    assert contour_accuracy(one, other) == contour_accuracy(other, one)
