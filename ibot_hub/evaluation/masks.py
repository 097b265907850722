"""How alike two masks are, by their regions and by their contours, as DAVIS measures."""

import math

import numpy as np
import numpy.typing as npt

from ibot_hub.evaluation.extra import needed

TOLERANCE = 0.008  # of the diagonal: how far a contour may be off and still count as right

Mask = npt.NDArray[np.bool_]  # [H, W]


def region_similarity(found: Mask, true: Mask) -> float:
    """J: intersection over union, 0..1; 1 where both are empty."""
    union = int((found | true).sum())
    return int((found & true).sum()) / union if union else 1.0


def contour_accuracy(found: Mask, true: Mask) -> float:
    """F: the harmonic mean of how much of each contour has some of the other's near it, 0..1.

    Near is no farther than 0.008 of the diagonal, rounded up to whole pixels. Where one mask has no contour F is 0, where both
    have none it is 1. Needs SciPy.
    """
    radius = math.ceil(TOLERANCE * math.hypot(*found.shape))
    one, other = contour(found), contour(true)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    rows, columns = np.nonzero(one | other)  # distances are only needed near the contours
    part = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    one, other = one[part], other[part]
    precision, recall = float(_near(other, radius)[one].mean()), float(_near(one, radius)[other].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """Pixels that differ from their neighbour to the right, below, or below to the right: one pixel wide, along the object's edge."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    differs: Mask = (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])
    return differs


def _near(points: Mask, radius: int) -> Mask:
    """Where the nearest of some points is at most `radius` pixels away."""
    near: Mask = needed("scipy.ndimage").distance_transform_edt(~points) <= radius
    return near
