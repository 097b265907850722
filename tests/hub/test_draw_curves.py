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
    curves = {"rising": [(1, 1.0), (2, 50.0), (196, 90.0)], "flat": [(1, 10.0), (196, 10.0)]}
    straight, logarithmic = (
        draw_curves(curves, title="a model", across="patches", up="top-1", logarithmic=logarithmic) for logarithmic in (False, True)
    )
    assert straight.mode == "RGB"
    assert straight.size == logarithmic.size == (960, 660)
    for picture in (straight, logarithmic):
        rising, flat = (places(picture, colour) for colour in COLOURS[:2])
        assert rising[:, 0].min() < flat[:, 0].min()  # higher up
        assert not len(places(picture, COLOURS[2]))
    # where y is half of the largest, x = 2 is at the left of a straight scale, and further right on a logarithmic one
    columns = [np.ptp(places(picture, COLOURS[0])[:, 1]) for picture in (straight, logarithmic)]
    assert min(columns) > 500
    assert straight.tobytes() != logarithmic.tobytes()
    assert straight.tobytes() == draw_curves(curves, title="a model", across="patches", up="top-1").tobytes()


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"A curve is drawn with matplotlib: pip install 'ibot-hub\[eval\]'"):
        draw_curves({"one": [(0, 0)]}, title="", across="", up="")
