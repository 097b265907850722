"""Layouts hold their pictures in order, with a frame round each patch and nothing drawn on it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.attention import ATTENTION
from ibot_hub.colours import distinct
from ibot_hub.draw.patterns import (
    EMPTY,
    MARK,
    SEAM,
    SMALL,
    draw_composition,
    draw_layout,
    draw_overview,
    draw_parts,
    draw_pattern,
    draw_top,
)
from ibot_hub.draw.sheet import PAPER
from ibot_hub.fit import whole_fit
from ibot_hub.loading import load
from ibot_hub.patterns.finding import Composition, Part, compose, find_patterns
from ibot_hub.patterns.layouts import Layout

Box = tuple[int, int, int, int]


def layout_of(count: int, side: int, of: str = "patches", pattern: int = 7) -> Layout:
    """Pictures whose red tells their place; in their middle fifth they are green."""
    pictures = []
    for index in range(count):
        picture = Image.new("RGB", (side, side), (10 * index, 0, 0))
        picture.paste((0, 200, 0), (side * 2 // 5, side * 2 // 5, side * 3 // 5, side * 3 // 5))
        pictures.append(picture)
    return Layout(pattern, 1234, of, [], pictures, [])  # type: ignore[arg-type]


def boxes_of(picture: Image.Image, colour: tuple[int, int, int]) -> Box:
    """Left, top, right and bottom of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def reds(picture: Image.Image, side: int) -> list[list[int]]:
    """The red of each cell that is no paper, by row."""
    pixels = np.asarray(picture)
    top = boxes_of(picture, (0, 0, 0))[1]
    left = boxes_of(picture, (0, 0, 0))[0]
    cells = [
        [tuple(pixels[y + 2, x + 2].tolist()) for x in range(left, picture.width - side // 2, side + SEAM)]
        for y in range(top, picture.height - side // 2, side + SEAM)
    ]
    return [[cell[0] if cell != EMPTY else -1 for cell in row] for row in cells]


def test_members_stand_in_a_square_in_reading_order() -> None:
    assert reds(draw_layout(layout_of(7, 80)), 80) == [[0, 10, 20], [30, 40, 50], [60, -1, -1]]
    six = draw_layout(layout_of(25, 20), side=20)
    assert len(reds(six, 20)) == len(reds(six, 20)[0]) == 5
    assert six.width < 6 * 20 + 30


def test_the_frame_is_round_the_patch_and_not_on_it() -> None:
    picture = draw_layout(layout_of(1, 100), side=100)
    patch, frame = boxes_of(picture, (0, 200, 0)), boxes_of(picture, MARK)
    assert (patch[2] - patch[0], patch[3] - patch[1]) == (20, 20)
    assert frame == (patch[0] - 2, patch[1] - 2, patch[2] + 2, patch[3] + 2)
    assert (np.asarray(picture.crop(patch)) == (0, 200, 0)).all()


def test_whole_images_have_no_frame() -> None:
    picture = draw_layout(layout_of(1, 80, of="cls"))
    assert not (np.asarray(picture) == MARK).all(axis=-1).any()


def test_words_are_never_cut() -> None:
    """Paper is wide enough for number and size, also above a single small picture."""
    narrow, wide = draw_layout(layout_of(1, 10), side=10), draw_layout(layout_of(36, 40), side=40)
    assert narrow.width > 100
    for picture in (narrow, wide):
        words = np.asarray(picture.convert("L"))[: boxes_of(picture, (0, 0, 0))[1] - SEAM]
        assert words.min() < 120
        assert (words[:, :3] > 250).all()
        assert (words[:, -3:] > 250).all()


def test_an_overview_lines_small_layouts_up() -> None:
    several = [layout_of(9, SMALL, pattern=index) for index in range(3)] + [layout_of(2, SMALL)]
    picture = draw_overview(several, columns=2)
    rows, columns = np.nonzero((np.asarray(picture) == (0, 200, 0)).all(axis=-1))
    whole = 8 * 8  # pixels of each green middle
    assert len(rows) == 29 * whole
    assert (len(np.unique(rows)), len(np.unique(columns))) == (6 * 8, 6 * 8)


def test_an_empty_layout_is_a_grey_place() -> None:
    picture = draw_layout(layout_of(0, 80))
    assert (np.asarray(picture) == EMPTY).all(axis=-1).sum() == 2 * 80 * 80


def test_a_composition_frames_each_patch_in_the_colour_of_its_layout() -> None:
    image = Image.new("RGB", (240, 120), "white")
    fit = whole_fit(240, 120, (64, 32), 8)  # 4 x 8 patches of 30 pixels
    parts = [Part(1, 0, 5, 0.5, 1.0), Part(3, 7, 6, 0.3, 1.0), Part(0, 3, 7, 0.1, 1.0)]
    several = [layout_of(4, SMALL, pattern=part.pattern) for part in parts]
    picture = draw_parts(image, Composition(parts, fit, ATTENTION), several)
    pixels = np.asarray(picture)
    left = 4 + 5 * (SMALL + SEAM) + SEAM + 2 * 3 + 4 + 4 + 4  # layout, its frame, and gaps
    top = (picture.height - 240) // 2
    colours = distinct(3)
    assert picture.width == 2 * left + 480 - 4 + 4
    for part, colour, side in zip(parts, colours, ("left", "right", "left"), strict=True):
        box = left + 60 * part.column, top + 60 * part.row, left + 60 * part.column + 60, top + 60 * part.row + 60
        assert (pixels[box[1] + 1 : box[3] - 1, box[0] + 1 : box[2] - 1] == 255).all()  # nothing is drawn on the patch
        if part.column:
            assert (pixels[box[1] + 5 : box[3] - 5, box[0] - 3 : box[0]] == colour).all()
        panel = pixels[:, :left] if side == "left" else pixels[:, left + 480 :]
        assert (panel == colour).all(axis=-1).sum() > 500
    assert [(pixels[:, :left] == colour).all(axis=-1).any() for colour in colours] == [True, False, True]


@pytest.mark.parametrize("patches", [[(0, 0)], [(7, 7)], [(0, 7)], [(3, 3), (3, 4), (4, 3)], [(0, 6), (0, 7)]])
def test_numbers_stand_within_the_image_and_hide_no_patch(patches: list[tuple[int, int]]) -> None:
    image = Image.new("RGB", (480, 480), "white")
    parts = [Part(row, column, 5, 0.5, 1.0) for row, column in patches]
    composition = Composition(parts, whole_fit(480, 480, (64, 64), 8), ATTENTION)
    pixels = np.asarray(draw_parts(image, composition, [layout_of(1, SMALL) for _ in parts]))
    left, top = 4 + 5 * (SMALL + SEAM) + SEAM + 2 * 3 + 4 + 4 + 4, (pixels.shape[0] - 480) // 2
    seen = pixels[top : top + 480, left : left + 480]
    for (row, column), colour in zip(patches, distinct(len(parts)), strict=True):
        inside = seen[60 * row + 4 : 60 * row + 56, 60 * column + 4 : 60 * column + 56]
        assert (inside == 255).all()
        assert (seen == colour).all(axis=-1).sum() > 16 * 16 / 2 + 60 * 3  # a whole number, and a side of the frame at least


def test_what_an_atlas_draws(golden: Path, photos: Path) -> None:
    """The same as its layouts, in the sizes that are asked for."""
    model = load(golden / "vit_micro_checkpoint.pth")
    atlas = find_patterns(model, photos, limit=6)
    first = atlas.top(1)[0]
    large = draw_pattern(atlas, first)
    small = draw_pattern(atlas, first, 4, side=30)
    assert large.width > 2 * small.width
    assert draw_top(atlas, 4, columns=2).width < draw_top(atlas, 4, columns=4).width
    composition = compose(model, photos / "cat_chelsea.jpg", atlas)
    picture = draw_composition(photos / "cat_chelsea.jpg", composition, atlas)
    assert picture.width > 480 + 2 * 200
    assert all((np.asarray(picture) == colour).all(axis=-1).any() for colour in distinct(len(composition.parts)))
    assert (np.asarray(picture)[0, 0] == PAPER).all()
