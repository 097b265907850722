"""How far the partners in a second photograph are from where a homography says they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ibot_hub.correspondence import PartnerMap
from ibot_hub.errors import UsageError

PCK = (0.05, 0.1)  # thresholds, shares of the longer side of the second image

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class HomographyReport:
    """Partners beside the truth, over all patches of the first image whose true partner lies in the second; shares in 0..1."""

    patches: int  # how many these are
    same: float  # share whose partner is the very patch that holds the true point
    within_one: float  # share whose partner is that patch or one of the eight round it
    pck: dict[float, float]  # threshold -> share whose partner's centre is no farther from the true point than that (PCK)
    median: float  # distance of partners from their true points, pixels of the second image


def read_homography(file: str | Path) -> Floats:
    """float64 [3, 3] from nine numbers in a text file, by rows, lines with a # left out; in half-pixel centres.

    Such files (OpenCV's, HPatches') take the centre of the first pixel for (0, 0), which is (0.5, 0.5) here: on the graffiti wall
    of `examples`, warping by integer centres correlates better (0.856) than by half-pixel ones (0.851).

    Raises:
        UsageError: no such file, other than nine numbers, or a matrix that squeezes the plane into a line.
    """
    try:
        words = [word for line in Path(file).read_text().splitlines() for word in line.partition("#")[0].replace(",", " ").split()]
        numbers = np.array([float(word) for word in words])
    except OSError as error:
        raise UsageError(f"The homography {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # of float, and of bytes that are no text
        raise UsageError(f"{file} is no homography: it must hold nine numbers, by rows ({error}).") from error
    if numbers.shape != (9,) or not np.isfinite(numbers).all():
        raise UsageError(f"{file} is no homography: it must hold nine finite numbers, by rows; it holds {len(numbers)}.")
    matrix = numbers.reshape(3, 3)
    if np.linalg.matrix_rank(matrix) < 3:
        raise UsageError(f"{file} is no homography: its matrix has no inverse.")
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    answer: Floats = shift @ matrix @ np.linalg.inv(shift)
    return answer


def mapped(homography: Floats, points: Floats) -> Floats:
    """[..., 2] (x, y) in pixels of the first image -> [..., 2] in the second; nan beyond the horizon, which most points are not."""
    moved = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1) @ homography.T  # [..., 3]
    scale = moved[..., 2:] * np.sign(np.median(moved[..., 2]))
    answer: Floats = moved[..., :2] / np.where(scale > 0, moved[..., 2:], np.nan)
    return answer


def measure_homography(partners: PartnerMap, homography: Floats) -> HomographyReport:
    """Every patch's partner beside the truth: its centre, mapped by `homography` [3, 3] (x, y in pixels of the images as given).

    Raises:
        UsageError: no patch of the first image lies in the second.
    """
    true_points = mapped(homography, partners.first.centres())  # [H, W, 2]
    held = [(at, partners.second.patch_at(*true_points[at])) for at in np.ndindex(true_points.shape[:2])]
    seen = np.array([at for at, place in held if place is not None]).reshape(-1, 2)  # [n, 2], in the first image
    if not len(seen):
        raise UsageError(
            "By this homography no patch of the first image lies in the second: is it in pixels, from the first to the second?"
        )
    places = np.array([place for _, place in held if place is not None])  # [n, 2], in the second
    found = partners.partners[seen[:, 0], seen[:, 1]]
    steps = np.abs(found - places).max(axis=1)
    centres = partners.second.centres()[found[:, 0], found[:, 1]]
    away = np.linalg.norm(centres - true_points[seen[:, 0], seen[:, 1]], axis=1)
    longer = max(partners.second.width, partners.second.height)
    return HomographyReport(
        patches=len(seen),
        same=float((steps == 0).mean()),
        within_one=float((steps <= 1).mean()),
        pck={threshold: float((away <= threshold * longer).mean()) for threshold in PCK},
        median=float(np.median(away)),
    )
