"""A split: a text file that names some of the training images, one a line."""

import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.labelled import Labelled
from ibot_hub.evaluation.subsets import drawn
from ibot_hub.plain_name import plain_name
from ibot_hub.writing import whole


def read_split(file: Path) -> list[str]:
    """Its lines without the empty ones. Raises SourceError."""
    try:
        names = [line.removesuffix("\r") for line in file.read_text(encoding="utf-8").split("\n")]
    except FileNotFoundError as error:
        raise SourceError(f"There is no {file}: a split is a text file that names a training image a line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file} cannot be read as a split ({getattr(error, 'strerror', None) or 'it is no text in UTF-8'}).") from error
    names = [name for name in names if name.strip()]
    if not names:
        raise SourceError(f"{file} names no image.")
    return names


def write_split(file: Path, names: list[str]) -> None:
    """One name a line, whole or not at all. Raises StoreError."""
    with whole(file) as partial:
        partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def rows_of(names: list[str], train: Labelled, file: Path) -> Tensor:
    """The rows of `train` that a split names, ascending; images that could not be read are passed over, as everywhere.

    A name with a slash is a path as the source names it; any other is the name of a file, as in SimCLR's splits
    of ImageNet (n01440764_10026.JPEG).

    Raises:
        UsageError: a name that no image has, or that several have, or a class without an image.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(train.paths):
        places[path].append(row)
        if "/" in path:
            places[path.rpartition("/")[2]].append(row)
    broken = {part for path in train.broken for part in (path, path.rpartition("/")[2])}
    missing = [name for name in names if name not in places and name not in broken]
    if missing:
        of = f"{len(missing)} of {len(names)} images of {file} are" if len(missing) > 1 else f"An image of {file} is"
        raise UsageError(f"{of} not in {train.manifest.source}: {missing[0]}.")
    several = next((name for name in names if len(places.get(name, ())) > 1), None)
    if several:
        one, other, *_ = (train.paths[row] for row in places[several])
        raise UsageError(f"{several} of {file} is {one} and {other} of {train.manifest.source}; name images by their paths.")
    rows = torch.tensor(sorted({places[name][0] for name in names if name in places}), dtype=torch.int64)
    empty = sorted(set(range(len(train.classes))) - set(train.labels[rows].tolist()))
    if empty:
        count = f"{len(empty)} of {len(train.classes)} classes have none"
        raise UsageError(f"{file} names no image of class {train.classes[empty[0]]!r}; {count}.")
    return rows


def drawn_split(train: Labelled, percent: float, seed: int, folder: Path) -> tuple[Path, Tensor]:
    """The split that was drawn into `folder` before, or a new one of that share of every class: its file and its rows of `train`.

    Raises:
        UsageError: a share that is none, or a file that names other images; StoreError: the file cannot be written.
    """
    source = plain_name("-".join(Path(train.manifest.source).parts[-2:]))
    file = folder / f"{source}-{percent:g}percent-seed{seed}.txt"
    small = int(train.labels.bincount().min())
    if small * percent < 100:
        print(f"{percent:g} % of the smallest class, which has {small} images, is less than one image; one is taken", file=sys.stderr)
    if not file.exists():
        write_split(file, [train.paths[row] for row in drawn(train.labels, percent / 100, seed).tolist()])
    return file, rows_of(read_split(file), train, file)
