"""Boxes of objects in images, as a CSV or JSON file lists them, and how far two overlap."""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ibot_hub.errors import UsageError

COLUMNS = ("path", "x", "y", "width", "height")


class Box(NamedTuple):
    """Part of an image, in its pixels: it spans [left, right] x [top, bottom]."""

    left: float
    top: float
    right: float
    bottom: float


def read_boxes(file: str | Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of each image, in the order of the file: a CSV with the columns path, x, y, width, height, or JSON, a list of objects
    with these keys; other columns are left alone.

    x and y are the left and upper edge, in pixels of the image as it is shown. An image with several boxes has several rows.

    Raises:
        UsageError: no such file, a column missing, a row that is no box, or no row at all.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"The boxes {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text; boxes are a .csv or .json file.") from error
    if path.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{file} is named neither .csv nor .json, so how it lists boxes is unknown.")
    boxes: dict[str, list[Box]] = {}
    for number, row in enumerate(_json_rows(path, text) if path.suffix.lower() == ".json" else _csv_rows(path, text), start=1):
        boxes.setdefault(str(row["path"]), []).append(_box(path, number, row))
    if not boxes:
        raise UsageError(f"{file} lists no box.")
    return {name: tuple(of_image) for name, of_image in boxes.items()}


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0..1."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(one) + _area(other) - width * height)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)


def _csv_rows(path: Path, text: str) -> Iterable[Mapping[str, Any]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]}; its first line must name {','.join(COLUMNS)}, with commas between.")
    return reader


def _json_rows(path: Path, text: str) -> Iterable[Mapping[str, Any]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.") from error
    if not isinstance(rows, list):
        raise UsageError(f"{path} holds a {type(rows).__name__}, not a list of objects with {', '.join(COLUMNS)}.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not set(COLUMNS) <= set(row):
            raise UsageError(f"Box {number} of {path} must be an object with {', '.join(COLUMNS)}.")
    return rows


def _box(path: Path, number: int, row: Mapping[str, Any]) -> Box:
    try:
        x, y, width, height = (float(row[name]) for name in COLUMNS[1:])
    except (TypeError, ValueError) as error:
        raise UsageError(f"Box {number} of {path} is none: x, y, width and height must be numbers.") from error
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise UsageError(f"Box {number} of {path} is {width:g} x {height:g} at ({x:g}, {y:g}); its sides must be above 0.")
    return Box(x, y, x + width, y + height)
