"""A data set of Hugging Face's `datasets` as images by number."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ibot_hub.errors import ImageError, SourceError
from ibot_hub.images import decode

SOURCE = re.compile(r"datasets:(?P<name>[^:]+)(:(?P<split>[^:\[]+(\[[^\]]*\])?)(:(?P<column>[^:]+))?)?")
SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` writes, of a data set and of several splits


class Rows:
    """The images of one column, decoded as those of files are."""

    def __init__(self, rows: Any, column: str, labels: npt.NDArray[np.int64] | None, classes: tuple[str, ...]) -> None:
        self._rows, self._column = rows, column
        self.labels, self.classes = labels, classes
        self.digest = str(rows._fingerprint)  # what the library calls these very rows, also on another machine

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return f"row {number}"

    def load(self, number: int) -> Image.Image:
        cell = self._rows[int(number)][self._column]
        if cell is None:
            raise ImageError("the row has no image")
        return decode(cell["path"] if cell["bytes"] is None else cell["bytes"])


def is_dataset(source: str) -> bool:
    """Whether `source` is named `datasets:...`, or is a folder that `save_to_disk` wrote."""
    return source.startswith("datasets:") or is_saved(source)


def is_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote that folder."""
    return any((Path(folder) / file).is_file() for file in SAVED)


def open_dataset(source: str) -> Rows:
    """`datasets:NAME[:SPLIT[:COLUMN]]`, or a folder that `save_to_disk` wrote; by default the split `train`, and its one column of images.

    The classes are those of a column `label`, where it has names and every row has one.

    Raises:
        SourceError: `datasets` is not installed, or cannot open it, or there is no such split, column or image.
    """
    parts = SOURCE.fullmatch(source if source.startswith("datasets:") else f"datasets:{source}")
    if parts is None:
        raise SourceError(f"{source} names no data set; write datasets:NAME, datasets:NAME:SPLIT or datasets:NAME:SPLIT:COLUMN.")
    try:
        library = import_module("datasets")
    except ImportError as error:
        raise SourceError(f"{source} needs the package datasets, which is not here: pip install datasets") from error
    try:
        rows = _split(library, parts["name"], parts["split"])
    except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
        raise SourceError(f"{source} cannot be opened: {str(error).splitlines()[0]}") from error
    column = _image_column(library, source, rows, parts["column"])
    labels, classes = _classes_of(library, rows)
    return Rows(rows.select_columns([column]).cast_column(column, library.Image(decode=False)), column, labels, classes)


def _split(library: Any, name: str, split: str | None) -> Any:
    """Raises what the library raises, ValueError for a split that a saved data set does not have."""
    if not is_saved(name):
        return library.load_dataset(name, split=split or "train")
    rows = library.load_from_disk(name)
    splits = rows if isinstance(rows, library.DatasetDict) else {str(rows.split or "train"): rows}
    wanted = split or ("train" if len(splits) > 1 else next(iter(splits)))
    if wanted not in splits:
        raise ValueError(f"it has no split {wanted}, but {', '.join(splits)}.")
    return splits[wanted]


def _image_column(library: Any, source: str, rows: Any, wanted: str | None) -> str:
    columns: list[str] = [name for name, feature in rows.features.items() if isinstance(feature, library.Image)]
    if wanted is None and len(columns) == 1:
        return columns[0]
    if wanted is not None and wanted in columns:
        return wanted
    if not columns:
        raise SourceError(f"No image found in {source}: none of its columns ({', '.join(rows.features)}) is of the type Image.")
    raise SourceError(f"{source}: name one of its columns of images, as in datasets:NAME:SPLIT:{columns[0]} (it has {', '.join(columns)}).")


def _classes_of(library: Any, rows: Any) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    feature = rows.features.get("label")
    if not isinstance(feature, library.ClassLabel):
        return None, ()
    labels = np.array([-1 if label is None else label for label in rows["label"]], dtype=np.int64)
    return (None, ()) if (labels < 0).any() else (labels, tuple(feature.names))  # hidden labels of a test set are -1
