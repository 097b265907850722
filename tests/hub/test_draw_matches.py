"""Lines go from point to point, in colours that tell them apart."""

import numpy as np
import pytest
from PIL import Image

from ibot_hub.colours import distinct
from ibot_hub.correspondence import Matches
from ibot_hub.draw.matches import COLOURS, HEIGHT, RIGHT, WIDTH, WRONG, draw_matches
from ibot_hub.draw.sheet import GAP

BLACK, GREY = Image.new("RGB", (200, 120), "black"), Image.new("L", (90, 180), 100)
OFFSET = 800 + GAP  # 120 pixels high -> 480: four times as large


def matches(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> Matches:
    count = len(first)
    zeros = np.zeros((count, 2), np.int64)
    points = (np.array(ends, np.float64).reshape(-1, 2) for ends in (first, second))
    return Matches(*points, np.zeros(count), np.zeros(count), zeros, zeros, "attention")


def test_pictures_stand_side_by_side_at_one_height() -> None:
    picture = draw_matches(matches([], []), BLACK, GREY)
    assert (picture.mode, picture.size) == ("RGB", (OFFSET + 240, HEIGHT))
    pixels = np.asarray(picture)
    assert (pixels[:, :800] == 0).all()
    assert (pixels[:, 800:OFFSET] == 255).all()
    assert (pixels[:, OFFSET:] == 100).all()


def test_dots_lie_on_the_points_and_lines_between_them() -> None:
    picture = draw_matches(matches([(100, 60), (25, 20)], [(45, 90), (30, 22.5)]), BLACK, GREY)
    for colour, (start, end) in zip(distinct(2), (((400, 240), (OFFSET + 120, 240)), ((100, 80), (OFFSET + 80, 60))), strict=True):
        for point in (start, end):
            assert picture.getpixel(point) == colour
            assert picture.getpixel((point[0], point[1] + 3)) == colour
            assert picture.getpixel((point[0], point[1] + 15)) in ((0, 0, 0), (100, 100, 100))
    column = np.asarray(picture)[225:256, 600]  # across the first line
    assert picture.getpixel((600, 240)) == distinct(2)[0]
    white = np.flatnonzero((column > 200).all(axis=1)) + 225
    assert white.min() < 240 < white.max()
    assert (column[:8] == 0).all()


def test_known_truth_shows_in_colour_and_in_dashes() -> None:
    picture = draw_matches(matches([(10, 30), (10, 90)], [(80, 45), (80, 135)]), BLACK, GREY, right=[True, False])
    rows = np.asarray(picture)[:, 60:780].astype(int)  # between the dots
    solid, dashed = (np.abs(rows[y] - colour).max(axis=1) < 30 for y, colour in ((120, RIGHT), (360, WRONG)))
    assert solid.all()
    assert 0.3 < dashed.mean() < 0.7
    assert picture.getpixel((40, 360)) == WRONG


def test_no_line_hides_where_another_ends() -> None:
    picture = draw_matches(matches([(20, 60), (100, 60)], [(45, 90), (45, 150)]), BLACK, GREY)
    assert picture.getpixel((400, 240)) == distinct(2)[1]  # on the way of the stronger line
    assert picture.getpixel((600, 240)) == distinct(2)[0]


def test_the_strongest_lies_on_top() -> None:
    picture = draw_matches(matches([(50, 60), (50, 60)], [(45, 90), (45, 90)]), BLACK, GREY)
    assert picture.getpixel((200, 240)) == distinct(2)[0]


def test_many_matches_have_colours_too() -> None:
    count = COLOURS + 1
    points = [(100.0, 2 + 116 * k / count) for k in range(count)]
    picture = draw_matches(matches(points, [(45, 90)] * count), BLACK, GREY)
    assert picture.getpixel((400, round(4 * points[-1][1]))) == distinct(COLOURS)[0]


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (Image.new("RGBA", (1, 1)), (480 + GAP + 240, 480)),
        (Image.new("1", (64, 4)), (WIDTH + GAP + 50, 100)),  # at most WIDTH wide, and the other as high
        (Image.new("RGB", (2, 700)), (1 + GAP + 240, 480)),
        (Image.new("RGB", (9000, 1)), (WIDTH + GAP + 1, 1)),
    ],
)
def test_any_mode_and_size_is_drawn(image: Image.Image, size: tuple[int, int]) -> None:
    assert draw_matches(matches([(0.5, 0.5)], [(45, 90)]), image, GREY).size == size
