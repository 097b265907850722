"""The classes of a source and how many images each has, told by names alone, before any image is seen."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.features.store import MANIFEST
from ibot_hub.features.table import open_features
from ibot_hub.sources import BRACES, LISTS, TAR_NAME, file_state, kind_of, named, rows_of, shown

_NO_CLASS = {"", ".", ".."}


@dataclass(frozen=True)
class ClassFolders:
    """What a folder, a list or shards of images hold, or a folder of features."""

    source: str
    images: Mapping[str, int]  # class -> how many, in alphabetical order
    state: str | None  # sha256 of the images' names, and of the sizes and times of their files; None of features


def read_classes(source: str | Path) -> ClassFolders:
    """The classes of `source`, which is a folder of class folders, a list or shards of images in such folders, or features of one.

    Raises:
        SourceError: no images; UsageError: an image in no class folder, or a list that can be read but once.
    """
    source = str(source)
    if (Path(source) / MANIFEST).exists():
        features = open_features(source)
        counts = Counter(class_folder(path, features.manifest.source) for path in features.paths)
        return ClassFolders(source, dict(sorted(counts.items())), None)
    kind = kind_of(source)
    if kind == "stdin" or (kind == "list" and not Path(source).is_file()):
        raise UsageError(
            f"{named(source)} can be read but once, and an evaluation reads lists twice; write it to a file such as images.txt."
        )
    digest, counts = hashlib.sha256(), Counter()
    for row in rows_of(kind, source, None):
        counts[class_folder(shown(row.name), source)] += 1
        digest.update(b"%d %d %d %d " % (len(row.name), row.offset, *file_state(row.location)) + row.name)
    if not counts:
        raise SourceError(f"No image found in {named(source)}.")
    return ClassFolders(source, dict(sorted(counts.items())), digest.hexdigest())


def check_classes(train: Collection[str], val: Collection[str], train_source: str, val_source: str) -> None:
    """Raises UsageError for a class of `val` that `train` has not, and for a single class of `train`."""
    check_several(train, train_source)
    missing = [name for name in val if name not in train]
    if missing:
        others = f" and {len(missing) - 1} more have" if len(missing) > 1 else " has"
        raise UsageError(f"Class {missing[0]!r}{others} images in {val_source}, but none in {train_source}.")


def check_several(classes: Collection[str], source: str) -> None:
    """Raises UsageError for a single class."""
    if len(classes) == 1:
        only = f"All images of {source} are in one class folder, {next(iter(classes))!r}"
        raise UsageError(f"{only}; give the folder that holds the class folders.")


def class_folder(path: str, source: str | Path) -> str:
    """The class folder of an image as `source` names it: of a folder the first one of the path, of lists and shards the last.

    Names in a list or a shard may begin anywhere, those in a folder begin below it. Raises UsageError for an image in no folder.
    """
    folders = [part for part in path.split("/")[:-1] if part not in _NO_CLASS]
    shards = [number for number, part in enumerate(folders) if part.lower().endswith(".tar")]
    inside = folders[shards[-1] + 1 :] if shards else []
    outside = [part for number, part in enumerate(folders) if number not in shards]
    if not outside:
        raise UsageError(f"{path} of {source} is in no class folder; class folders hold the images of a class each.")
    return inside[-1] if inside else outside[0 if _is_folder(str(source)) else -1]


@cache
def _is_folder(source: str) -> bool:
    """Whether a source is, or where it is gone was, a folder."""
    path = Path(source)
    if source == "-" or BRACES.search(source):
        return False
    return path.is_dir() if path.exists() else path.suffix.lower() not in LISTS and not TAR_NAME.search(path.name)
