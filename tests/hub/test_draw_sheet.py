import numpy as np
from PIL import Image

from ibot_hub.draw.sheet import GAP, INK, PAPER, grid, sheet, shrink


def block(colour, width=20, height=10):
    return Image.new("RGB", (width, height), colour)


def box_of(picture, colour):
    """(left, top, right, bottom) of the pixels of one colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_cells_of_a_column_share_their_width_and_pictures_are_centred():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    drawn = sheet([[block(red, 20, 10), block(green, 6, 6)], [block(blue, 10, 4)]])
    assert drawn.size == (3 * GAP + 26, 3 * GAP + 14)
    assert box_of(drawn, red) == (GAP, GAP, GAP + 20, GAP + 10)
    assert box_of(drawn, green) == (2 * GAP + 20, GAP + 2, 2 * GAP + 26, GAP + 8)
    assert box_of(drawn, blue) == (GAP + 5, 2 * GAP + 10, GAP + 15, 2 * GAP + 14)


def ink(picture, box):
    return int((np.asarray(picture.crop(box)).sum(-1) < sum(PAPER) - 200).sum())


def test_words_stand_above_columns_and_left_of_rows():
    cells = [[block((200, 255, 200), 80, 40)] * 2] * 2
    drawn = sheet(cells, columns=["first", "second"], labels=["one", ""])
    plain = sheet(cells)
    margin, head = drawn.width - plain.width, drawn.height - plain.height
    assert margin > 0
    assert head > 0
    middle = margin + GAP + 80 + GAP // 2
    assert ink(drawn, (margin, 0, middle, head)) > 20
    assert ink(drawn, (middle, 0, drawn.width, head)) > 20
    assert ink(drawn, (0, head, margin, head + GAP + 40)) > 20
    assert ink(drawn, (0, head + GAP + 40 + GAP, margin, drawn.height)) == 0
    assert sum(INK) < sum(PAPER) - 200


def test_words_never_run_into_the_next_column():
    cells = [[block((200, 255, 200), 60, 20)] * 2]
    drawn = sheet(cells, columns=["far too many words for a column", ""])
    head = drawn.height - sheet(cells).height
    assert ink(drawn, (0, 0, 60 + 2 * GAP, head)) > 20
    assert ink(drawn, (60 + 2 * GAP, 0, drawn.width, head)) == 0


def test_grid_reads_from_left_to_right():
    colours = [(50 * k, 0, 0) for k in range(5)]
    drawn = grid([block(colour) for colour in colours], 2)
    corners = [box_of(drawn, colour)[:2] for colour in colours]
    assert corners == [(GAP + k % 2 * (20 + GAP), GAP + k // 2 * (10 + GAP)) for k in range(5)]


def test_a_sheet_of_nothing_is_blank_paper():
    assert set(grid([], 3).get_flattened_data()) == {PAPER}


def test_shrinking_keeps_the_aspect() -> None:
    assert shrink(Image.new("RGB", (400, 100)), 80).size == (80, 20)
    assert shrink(Image.new("RGB", (1, 900)), 90).size == (1, 90)  # never without a pixel
