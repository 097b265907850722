"""Curves are drawn in their colours, where their points are; without matplotlib one sentence says what to install."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from ibot_hub.draw.curves import COLOURS, draw_curves
from ibot_hub.errors import UsageError


def places(picture: Image.Image, colour: str) -> np.ndarray:
    """[n, 2] (row, column) of the pixels of a colour."""
    return np.argwhere((np.asarray(picture) == ImageColor.getrgb(colour)).all(axis=-1))


def test_curves_have_their_colours_and_places() -> None:
    curves = {"rising": [(1, 1.0), (2, 50.0), (4, 90.0)], "flat": [(1, 10.0), (4, 10.0)]}
    picture = draw_curves(curves, title="a model", across="patches", up="top-1")
    assert (picture.mode, picture.size) == ("RGB", (960, 660))
    rising, flat = (places(picture, colour) for colour in COLOURS[:2])
    assert rising[:, 0].min() < flat[:, 0].min()  # higher up
    assert not len(places(picture, COLOURS[2]))
    assert picture.tobytes() == draw_curves(curves, title="a model", across="patches", up="top-1").tobytes()


@pytest.mark.parametrize(("logarithmic", "expected"), [(False, 1 / 3), (True, 1 / 2)])
def test_doubled_numbers_are_equally_far_apart_on_a_logarithmic_scale(logarithmic: bool, expected: float) -> None:
    picture = draw_curves({"rising": [(1, 0), (2, 50), (4, 100)]}, title="", across="", up="", logarithmic=logarithmic)
    rows, columns = places(picture, COLOURS[0]).T
    middle = columns[abs(rows - (rows.min() + rows.max()) / 2) < 2].mean()
    assert (middle - columns.min()) / np.ptp(columns) == pytest.approx(expected, abs=0.02)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"A curve is drawn with matplotlib: pip install 'ibot-hub\[eval\]'"):
        draw_curves({"one": [(0, 0)]}, title="", across="", up="")
