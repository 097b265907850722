"""Colours are far apart for all eyes, by other formulas than those that chose them."""

import numpy as np
import numpy.typing as npt
import pytest

from ibot_hub import colours
from ibot_hub.colours import VIRIDIS, distinct, viridis

# Vienot, Brettel and Mollon 1999 on linear sRGB, and Machado et al. for the blind to blue, whom the former leave out
SIMULATIONS = (
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
)
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
OFFICIAL = ((0, 160, 215), (220, 55, 60), (245, 180, 0), (10, 120, 190), (40, 150, 100), (135, 75, 145))


def cielab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear sRGB [n, 3] -> CIE L*a*b* [n, 3]."""
    x, y, z = np.cbrt((linear.clip(0, 1) @ XYZ.T / XYZ.sum(axis=1)).clip(1e-9)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def nearest(chosen: tuple[tuple[int, int, int], ...]) -> float:
    """The smallest CIE76 difference between two of the colours, for the eyes that tell these two apart least."""
    values = np.array(chosen) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.stack([cielab(linear @ np.array(matrix).T) for matrix in SIMULATIONS])
    distances = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1) + 1e9 * np.eye(len(chosen))
    return float(distances.min())


@pytest.mark.parametrize(("count", "least"), [(3, 45), (6, 24), (12, 13), (16, 9)])
def test_far_apart_for_all_eyes(count: int, least: int) -> None:
    assert nearest(distinct(count)) >= least


def test_twelve_are_as_far_apart_as_the_official_six() -> None:
    assert nearest(distinct(12)) > nearest(OFFICIAL)


def test_any_count_is_of_different_colours_that_begin_alike() -> None:
    many = distinct(96)
    assert len(set(many)) == 96
    assert all(distinct(count) == many[:count] for count in (0, 1, 2, 7, 16))
    assert many[:2] == ((230, 159, 0), (86, 180, 233))
    assert all(0 <= channel <= 255 for colour in many for channel in colour)
    assert nearest((*distinct(16), (30, 30, 30))) > 5  # seen on dark ground too


def test_more_colours_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colours, "STEP", 85)
    with pytest.raises(ValueError, match=r"there are no 500 colours, only \d\d"):
        distinct.__wrapped__(500)


def test_viridis_goes_from_dark_blue_to_yellow() -> None:
    assert viridis([0, 1]).tolist() == [[68, 1, 84], [253, 231, 37]]
    assert viridis(np.full((2, 3), 0.5)).shape == (2, 3, 3)
    assert viridis(0.5).tolist() == VIRIDIS[4].tolist()
    assert viridis(1 / 16).tolist() == np.rint((VIRIDIS[0] + VIRIDIS[1]) / 2).tolist()
    assert viridis([-3, 7]).tolist() == viridis([0, 1]).tolist()
    lightness = cielab(((viridis(np.linspace(0, 1, 50)) / 255 + 0.055) / 1.055) ** 2.4)[:, 0]
    assert (np.diff(lightness) > 0).all()
