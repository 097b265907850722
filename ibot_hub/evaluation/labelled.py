"""Images of class folders become rows of features with a class each."""

import hashlib
import json
import re
import sys
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.features.extraction import extract
from ibot_hub.features.plan import weights_digest
from ibot_hub.features.store import MANIFEST, Manifest
from ibot_hub.features.table import Features, open_features
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions, ExtractOptions, Pool
from ibot_hub.sources import BRACES, LISTS, TAR_NAME

_OWN = {"images", "listing", "source", "batch_size", "format", "shard_size", "device", "tokens"}  # may differ between two sides
_NO_CLASS = {"", ".", ".."}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of images and their classes, in the order of the source; images that could not be read have no row."""

    features: Tensor  # float32 [N, F]
    labels: Tensor  # int64 [N], places in `classes`
    classes: tuple[str, ...]  # in alphabetical order
    paths: tuple[str, ...]
    manifest: Manifest  # what made the features
    broken: tuple[str, ...]  # images that could not be read

    @property
    def failed(self) -> int:
        """How many images could not be read."""
        return len(self.broken)


def labelled(
    source: str | Path,
    model: Model | None,
    cache: Path,
    options: EvaluationOptions | None = None,
    *,
    layers: int = 1,
    pool: Pool = "cls",
) -> Labelled:  # fmt: skip
    """The vectors of `source`, which is a folder of class folders (ImageNet's layout), or what `extract` wrote of one.

    Args:
        model: what makes the features; None where `source` holds features already.
        cache: the folder that features of images are kept in, so that another protocol, or the same after an interruption, finds them;
            each source seen in another way, or by other weights, has a folder of its own in it.
        layers, pool: as of `extract`.

    Raises:
        SourceError: no image that can be read; UsageError: images without a model, features of another kind than asked, an image in no
        class folder, numbers that are not finite.
    """
    features = _features(str(source), model, cache, options or EvaluationOptions(), layers, pool)
    if not len(features):
        raise SourceError(f"None of the {features.manifest.images} images of {features.manifest.source} could be read.")
    names = [class_folder(path, features.manifest.source) for path in features.paths]
    classes = tuple(sorted(set(names)))
    place = {name: index for index, name in enumerate(classes)}
    labels = torch.tensor([place[name] for name in names])
    broken = tuple(failure.path for failure in features.failures)
    return Labelled(_rows(features), labels, classes, tuple(features.paths), features.manifest, broken)


def pair(train: Labelled, val: Labelled) -> tuple[Labelled, Labelled]:
    """The two sides of a protocol with labels in the classes of `train`; classes without an image in `val` are told on standard error.

    Raises:
        UsageError: features of two models or made in two ways, a class of `val` that `train` has not, or a single class.
    """
    _check_alike(train.manifest, val.manifest)
    if len(train.classes) == 1:
        only = f"All images of {train.manifest.source} are in one class folder, {train.classes[0]!r}"
        raise UsageError(f"{only}; give the folder that holds the class folders.")
    place = {name: index for index, name in enumerate(train.classes)}
    missing = [name for name in val.classes if name not in place]
    if missing:
        others = f" and {len(missing) - 1} more have" if len(missing) > 1 else " has"
        raise UsageError(f"Class {missing[0]!r}{others} images in {val.manifest.source}, but none in {train.manifest.source}.")
    absent = [name for name in train.classes if name not in set(val.classes)]
    if absent:
        count = f"{len(absent)} of {len(train.classes)} classes, such as {absent[0]!r}, have"
        print(f"{count} no image in {val.manifest.source}", file=sys.stderr)
    places = torch.tensor([place[name] for name in val.classes])
    return train, replace(val, labels=places[val.labels], classes=train.classes)


def left_out(**sides: Labelled) -> dict[str, int]:
    """How many images of each side could not be read, as a record keeps it."""
    return {name: side.failed for name, side in sides.items()}


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


def _features(source: str, model: Model | None, cache: Path, options: EvaluationOptions, layers: int, pool: Pool) -> Features:
    """What `source` holds, or what an extraction of it gives."""
    if (Path(source) / MANIFEST).exists():
        features = open_features(source)
        seen = features.manifest.preprocessing
        made = {"layers": features.manifest.layers, "pool": features.manifest.pool, "size": seen["size"], "resize": seen["resize"]}
        wanted = {"layers": layers, "pool": pool, "size": options.size or made["size"], "resize": options.resize or made["resize"]}
        apart = [name for name in made if made[name] != wanted[name]]
        if apart:
            held, needed = (", ".join(f"{name} {facts[name]}" for name in apart) for facts in (made, wanted))
            raise UsageError(f"{source} holds features of {held}, but {needed} is needed; extract them so, or give the images.")
        return features
    if model is None:
        raise UsageError(f"{source} holds images, not features; say which model is to see them.")
    asked = ExtractOptions(
        layers=layers, pool=pool, size=options.size, resize=options.resize, dtype=options.dtype, device=options.device,
        batch_size=options.batch_size, workers=options.workers, part="0/1",
    )  # fmt: skip
    return open_features(extract(model, source, cache / _folder_name(model, source, asked), asked).out)


def _folder_name(model: Model, source: str, asked: ExtractOptions) -> str:
    """One for each source, weights, and way of seeing, so that no extraction meets the folder of another one."""
    path = Path(source)
    when = path.stat().st_mtime_ns if path.is_file() else None  # a list that was edited since names other images
    facts = [str(path.absolute()), when, weights_digest(model.backbone), asdict(replace(asked, workers=None))]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    words = (*Path(model.card.name).parts[-2:], *path.parts[-2:], asked.pool, str(asked.layers), digest)
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")


def _rows(features: Features) -> Tensor:
    """[N, F], a shard at a time, so that no copy stands beside it."""
    rows = torch.empty(features.feature.shape)
    start = 0
    for block in features.feature.blocks():
        part = rows[start : start + len(block)].copy_(torch.from_numpy(block))
        broken = (~part.isfinite().all(dim=1)).nonzero()
        if len(broken):
            path = features.paths[start + int(broken[0, 0])]
            raise UsageError(f"The feature of {path} in {features.folder} is not finite: the weights or the precision are wrong.")
        start += len(block)
    return rows


def _check_alike(train: Manifest, val: Manifest) -> None:
    """Raises UsageError where features are not of one model, seen in one way."""
    if train.weights != val.weights:
        sides = " and ".join(f"{side.source} by {side.model} ({side.arch}, weights {side.weights[:8]})" for side in (train, val))
        raise UsageError(f"Features of two models cannot be compared: {sides}; extract both with one.")
    one, other = (
        {key: value for key, value in side.identity().items() if key not in _OWN and not key.startswith("shape of")}
        for side in (train, val)
    )
    apart = [f"{key} {one[key]} and {other[key]}" for key in one if one[key] != other[key]]
    if apart:
        raise UsageError(f"The features of {train.source} and {val.source} were made differently: {'; '.join(apart)}; extract both alike.")
