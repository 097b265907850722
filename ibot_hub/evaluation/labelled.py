"""Images of class folders become rows of features with a class each."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.features.extraction import extract
from ibot_hub.features.store import MANIFEST, Manifest
from ibot_hub.features.table import Features, open_features
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions, ExtractOptions, Pool, TokenKind

_OWN = ("images", "listing", "source", "batch_size", "format", "shard_size", "device", "columns", "tokens")  # may differ between two sides


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of images and their classes, in the order of the source; images that could not be read have no row."""

    features: Tensor  # float32 [N, F]
    labels: Tensor  # int64 [N], places in `classes`
    classes: tuple[str, ...]  # in alphabetical order
    paths: tuple[str, ...]
    manifest: Manifest  # what made the features
    failed: int  # images that could not be read


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
        cache: the folder that features of images are kept in, so that another protocol, or the same after an interruption, finds them.
        layers, pool: as of `extract`.

    Raises:
        SourceError: no images; UsageError: images without a model, features of another model or kind than asked, an image in no class
        folder, numbers that are not finite.
    """
    features = _features(str(source), model, cache, options or EvaluationOptions(), layers, pool, "cls")
    rows = torch.from_numpy(np.asarray(features.feature))
    _check_finite(rows, features)
    names = [class_of(path, features) for path in features.paths]
    classes = tuple(sorted(set(names)))
    place = {name: index for index, name in enumerate(classes)}
    labels = torch.tensor([place[name] for name in names])
    return Labelled(rows, labels, classes, tuple(features.paths), features.manifest, len(features.failures))


def pair(train: Labelled, val: Labelled) -> tuple[Labelled, Labelled]:
    """The two sides of a protocol with labels in the classes of `train`.

    Raises:
        UsageError: features of two models or made in two ways, or a class of `val` that `train` has not.
    """
    one, other = (_identity(side.manifest) for side in (train, val))
    apart = [f"{key}: {one[key]} and {other[key]}" for key in one if one[key] != other[key]]
    if apart:
        raise UsageError(f"The features of {train.manifest.source} and {val.manifest.source} were made differently: {'; '.join(apart)}.")
    missing = [name for name in val.classes if name not in set(train.classes)]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"Class {missing[0]!r}{others} of {val.manifest.source} has no image in {train.manifest.source}.")
    absent = [name for name in train.classes if name not in set(val.classes)]
    if absent:
        print(
            f"{len(absent)} of {len(train.classes)} classes, such as {absent[0]!r}, have no image in {val.manifest.source}", file=sys.stderr
        )
    places = torch.tensor([train.classes.index(name) for name in val.classes])
    return train, replace(val, labels=places[val.labels], classes=train.classes)


def class_of(path: str, features: Features) -> str:
    """The class folder of an image of extracted features, as `class_folder` finds it."""
    return class_folder(path, features.manifest.source)


def class_folder(path: str, source: str | Path) -> str:
    """The class folder of an image: the first folder of its path in `source`; of a list of paths, the last.

    Raises UsageError for an image in no folder.
    """
    pure = PurePosixPath(path)
    folders = pure.parts[:-1]
    if pure.is_absolute() or (folders and ".tar" in folders[0]):
        folders = folders[-1:]
    if not folders or folders == ("/",):
        raise UsageError(f"{path} of {source} is in no class folder; class folders hold the images of a class each.")
    return folders[0]


def _features(
    source: str, model: Model | None, cache: Path, options: EvaluationOptions, layers: int, pool: Pool, tokens: TokenKind
) -> Features:  # fmt: skip
    """What `source` holds, or what an extraction of it gives."""
    if (Path(source) / MANIFEST).exists():
        features = open_features(source)
        made = {"layers": features.manifest.layers, "pool": features.manifest.pool}
        wanted = {"layers": layers, "pool": pool}
        if made != wanted:
            raise UsageError(f"{source} holds features with {made}, and {wanted} are needed; extract them so, or give the images.")
        return features
    if model is None:
        raise UsageError(f"{source} holds images, not features; say which model is to see them.")
    asked = ExtractOptions(
        tokens=tokens, layers=layers, pool=pool, size=options.size, resize=options.resize, dtype=options.dtype, device=options.device,
        batch_size=options.batch_size, workers=options.workers, part="0/1",
    )  # fmt: skip
    return open_features(extract(model, source, cache, asked).out)


def _identity(manifest: Manifest) -> dict[str, object]:
    return {key: value for key, value in manifest.identity().items() if key not in _OWN}


def _check_finite(rows: Tensor, features: Features) -> None:
    broken = (~rows.isfinite().all(dim=1)).nonzero()
    if len(broken):
        path = features.paths[int(broken[0, 0])]
        raise UsageError(f"The feature of {path} in {features.folder} is not finite: the weights or the precision are wrong.")
