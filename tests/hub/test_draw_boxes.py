"""Boxes stand where they were found and given, in colours that tell right from wrong."""

import numpy as np
from PIL import Image

from ibot_hub.draw.boxes import COLUMNS, GIVEN, RIGHT, WRONG, draw_boxes
from ibot_hub.draw.components import SIDE

GREY = Image.new("RGB", (2 * SIDE, SIDE), (100, 100, 100))
FOUND = (40.0, 20.0, 200.0, 160.0)
TRUE = (100.0, 60.0, 300.0, 240.0)


def where(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what has a colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_boxes_are_drawn_in_the_scale_of_the_picture() -> None:
    for right, colour in ((True, RIGHT), (False, WRONG)):
        picture = draw_boxes([GREY], [FOUND], [[TRUE]], [right])
        left, top, _, _ = where(picture, (100, 100, 100))
        assert where(picture.crop((left, top, left + SIDE, top + SIDE // 2)), colour) == (20, 10, 100, 80)
        inside = picture.crop((left, top, left + SIDE, top + SIDE // 2))
        assert where(inside, GIVEN)[2:] == (150, 120)


def test_pictures_stand_in_columns() -> None:
    one = draw_boxes([GREY], [FOUND], [[TRUE]], [True], ["a.jpg"])
    many = draw_boxes([GREY] * (COLUMNS + 1), [FOUND] * (COLUMNS + 1), [[TRUE]] * (COLUMNS + 1), [True] * (COLUMNS + 1), ["a.jpg"] * 5)
    assert many.width == COLUMNS * one.width
    assert many.height == 2 * one.height
