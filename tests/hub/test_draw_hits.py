"""A contact sheet shows the right images in the right order, and frames patches where they are."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ibot_hub.draw.hits import CELL, CONTEXT, EMPTY, MARK, draw_hits
from ibot_hub.images import ImageTransform
from ibot_hub.listing import Entry
from ibot_hub.retrieval.neighbours import Hit, Hits

WHOLE = ImageTransform(size=96, resize="keep", patch=16)
SIDE = CELL / (2 * CONTEXT + 1)  # of a patch that is shown near


def shades(count: int) -> list[tuple[int, int, int]]:
    return [(10, 20, 30 + 15 * number) for number in range(count)]


def hit_of(path: Path, image: Image.Image, patch: tuple[int, int] | None = None) -> Hit:
    image.save(path)
    fit = WHOLE.fit(*image.size)
    return Hit(path.name, 0.5, 0, patch, fit, Entry(path.name, str(path)))


def drawn(image: Image.Image, hits: Hits) -> NDArray[np.uint8]:
    return np.asarray(draw_hits(image, hits))


def centre_of(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[float, float]:
    """(y, x) of the middle of all pixels of a colour."""
    y, x = np.nonzero((sheet == colour).all(-1))
    return (y.min() + y.max() + 1) / 2, (x.min() + x.max() + 1) / 2


@pytest.fixture
def query() -> Image.Image:
    return Image.new("RGB", (96, 96), (200, 0, 0))


def test_the_query_stands_left_of_the_hits_which_are_in_reading_order(tmp_path: Path, query: Image.Image) -> None:
    images = [Image.new("RGB", (120, 60 + 60 * (number % 2)), shade) for number, shade in enumerate(shades(7))]
    hits = [hit_of(tmp_path / f"{number}.png", image) for number, image in enumerate(images)]
    sheet = drawn(query, Hits("images", None, WHOLE.fit(96, 96), tuple(hits)))
    at = [centre_of(sheet, shade) for shade in shades(7)]
    asked = centre_of(sheet, (200, 0, 0))
    assert asked[0] == at[0][0]
    assert all(y == at[0][0] for y, _ in at[:5])
    assert at[5][0] == at[6][0] > at[0][0] + CELL
    xs = [x for _, x in at]
    assert asked[1] < xs[0] < xs[1] < xs[2] < xs[3] < xs[4]
    assert xs[5:] == xs[:2]
    assert ((sheet == (10, 20, 30)).all(-1).sum(), (sheet == (10, 20, 45)).all(-1).sum()) == (CELL * CELL // 2, CELL * CELL)
    assert not (sheet == MARK).all(-1).any()


def test_each_hit_has_words_below_it(tmp_path: Path, query: Image.Image) -> None:
    hit = hit_of(tmp_path / "a.png", Image.new("RGB", (90, 90), (10, 20, 30)))
    sheet = drawn(query, Hits("images", None, WHOLE.fit(96, 96), (hit,)))
    y, x = (round(value) for value in centre_of(sheet, (10, 20, 30)))
    below = sheet[y + CELL // 2 + 2 : y + CELL // 2 + 36, x - CELL // 2 : x + CELL // 2]
    assert (below < 140).any(axis=(1, 2)).sum() > 12  # two lines of letters
    assert (sheet[-3:] == 255).all()  # and nothing of them is cut off


def test_a_patch_is_framed_in_the_query_and_in_the_middle_of_its_surroundings(tmp_path: Path) -> None:
    """Each image has one patch of another colour: the frame must be round that one."""
    query, found = (Image.new("RGB", size, (90, 90, 90)) for size in ((192, 192), (384, 192)))
    query.paste((0, 0, 250), (32, 64, 64, 96))  # patch (2, 1) of 6 x 6, each 32 pixels
    found.paste((0, 250, 0), (192, 96, 224, 128))  # patch (3, 6) of 6 x 12
    hit = hit_of(tmp_path / "a.png", found, (3, 6))
    sheet = drawn(query, Hits("patches", (2, 1), WHOLE.fit(192, 192), (hit,)))
    green = (sheet == (0, 250, 0)).all(-1)
    assert abs(green.sum() - SIDE**2) < 0.35 * SIDE**2
    y, x = (round(value) for value in centre_of(sheet, (0, 250, 0)))
    frame = (sheet[y - CELL // 2 : y + CELL // 2, x - CELL // 2 : x + CELL // 2] == MARK).all(-1)
    ys, xs = np.nonzero(frame)
    assert abs(ys.mean() - CELL / 2) < 1.5
    assert abs(xs.mean() - CELL / 2) < 1.5
    assert abs(np.ptp(ys) - SIDE) < 6
    blue = np.argwhere((sheet[..., 2] > 180) & (sheet[..., :2] < 60).all(-1))
    whole, near = blue[blue[:, 0] < CELL], blue[blue[:, 0] > CELL]
    for pixels in (whole, near):  # in the whole query, and near
        (top, left), (bottom, right) = pixels.min(0), pixels.max(0)
        for line in (
            sheet[top - 3 : top, left],
            sheet[bottom + 1 : bottom + 4, left],
            sheet[top, left - 3 : left],
            sheet[top, right + 1 : right + 4],
        ):
            assert list(MARK) in line.tolist()
    assert abs(np.ptp(whole[:, 0]) + 1 - CELL / 6) <= 2


def test_what_lies_outside_of_the_image_is_empty(tmp_path: Path, query: Image.Image) -> None:
    image = Image.new("RGB", (96, 96), (10, 20, 30))
    hit = hit_of(tmp_path / "a.png", image, (0, 5))
    sheet = drawn(query, Hits("patches", (0, 0), WHOLE.fit(96, 96), (hit,)))
    y, x = (round(value) for value in centre_of(sheet, (10, 20, 30)))
    assert sheet[y - CELL // 2, x].tolist() == list(EMPTY)
    ours = (sheet == (10, 20, 30)).all(-1)
    assert abs(np.ptp(np.nonzero(ours)[0]) - 5 * SIDE) <= 2  # the patch's row, and four below
    assert abs(np.ptp(np.nonzero(ours)[1]) - 5 * SIDE) <= 2
    assert (sheet == EMPTY).all(-1).sum() > CELL**2


def test_an_image_that_is_gone_leaves_an_empty_cell_with_its_name_and_the_reason(tmp_path: Path, query: Image.Image) -> None:
    hits = [hit_of(tmp_path / f"{number}.png", Image.new("RGB", (90, 90), shade)) for number, shade in enumerate(shades(3))]
    (tmp_path / "1.png").unlink()
    sheet = drawn(query, Hits("images", None, WHOLE.fit(96, 96), tuple(hits)))
    assert not (sheet == shades(3)[1]).all(-1).any()
    y, x = centre_of(sheet, EMPTY)
    assert y == centre_of(sheet, shades(3)[0])[0]
    assert centre_of(sheet, shades(3)[0])[1] < x < centre_of(sheet, shades(3)[2])[1]
    cell = sheet[int(y) - CELL // 2 : int(y) + CELL // 2, int(x) - CELL // 2 : int(x) + CELL // 2]
    assert 0.8 < (cell == EMPTY).all(-1).mean() < 0.999  # the reason stands in it


def test_a_long_name_is_cut_at_its_beginning(tmp_path: Path, query: Image.Image) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    image = Image.new("RGB", (90, 90), (10, 20, 30))
    short, long = (hit_of(folder / f"{name}.png", image) for name in ("x" * 8, "y" * 60 + "x" * 8))
    sheets = [drawn(query, Hits("images", None, WHOLE.fit(96, 96), (hit,))) for hit in (short, long)]
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()
