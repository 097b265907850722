"""Boxes are read from CSV and JSON alike, and overlap by their union."""

import json
from pathlib import Path

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.boxes import Box, overlap, read_boxes

TABLE = "path, x, y, width, height, class\ncats/a.jpg, 1, 2, 30, 40, cat\ndogs/b.jpg,5,6,7.5,8,dog\ncats/a.jpg,0,0,10,10,cat\n"
EXPECTED = {"cats/a.jpg": (Box(1, 2, 31, 42), Box(0, 0, 10, 10)), "dogs/b.jpg": (Box(5, 6, 12.5, 14),)}


@pytest.mark.parametrize("text", [TABLE, "\ufeff" + TABLE, TABLE.replace("\n", "\r\n")])
def test_a_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "boxes.csv").write_text(text, newline="")
    assert read_boxes(tmp_path / "boxes.csv") == EXPECTED


def test_json_means_the_same(tmp_path: Path) -> None:
    names = ("path", "x", "y", "width", "height")
    rows = [("cats/a.jpg", 1, 2, 30, 40), ("dogs/b.jpg", 5, 6, 7.5, 8), ("cats/a.jpg", 0, 0, 10, 10)]
    (tmp_path / "boxes.json").write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
    assert read_boxes(tmp_path / "boxes.json") == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("b.csv", "path,x,y,width\na,1,2,3\n", "has no column height; its first line must name path,x,y,width,height, with commas between"),
        ("b.csv", "", "has no column path"),
        ("b.csv", "path,x,y,width,height\n", "lists no box"),
        ("b.csv", "path,x,y,width,height\na.jpg,1,2,3,4\nb.jpg,1,2,3\n", r"Box 2 of .* is none: x, y, width and height must be numbers"),
        ("b.csv", "path,x,y,width,height\na.jpg,1,2,three,4\n", "Box 1 of .* is none"),
        ("b.csv", "path,x,y,width,height\na.jpg,1,2,0,4\n", r"Box 1 of .* is 0 x 4 at \(1, 2\); its sides must be above 0"),
        ("b.csv", "path,x,y,width,height\na.jpg,nan,2,3,4\n", "Box 1 of .* its sides must be above 0"),
        ("b.json", "{}", "holds a dict, not a list of objects"),
        ("b.json", "[", "is not JSON"),
        ("b.json", '[{"path": "a.jpg", "x": 1}]', "Box 1 of .* must be an object with path, x, y, width, height"),
        ("b.txt", TABLE, r"is named neither \.csv nor \.json"),
    ],
)
def test_files_that_list_no_boxes_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        read_boxes(tmp_path / name)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_boxes(tmp_path / "missing.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no text"):
        read_boxes(tmp_path / "b.csv")


def test_overlaps() -> None:
    one = Box(0, 0, 10, 10)
    assert overlap(one, one) == 1
    assert overlap(one, Box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert overlap(one, Box(2, 2, 4, 7)) == pytest.approx(10 / 100)
    assert overlap(one, Box(10, 0, 20, 10)) == overlap(one, Box(-5, 20, 5, 30)) == 0
