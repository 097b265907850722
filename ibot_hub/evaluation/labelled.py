"""Images of class folders become rows of features with a class each."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.class_folders import ClassFolders, check_classes, class_folder, read_classes
from ibot_hub.features.extraction import extract
from ibot_hub.features.plan import weights_digest
from ibot_hub.features.store import MANIFEST, Manifest, read_manifest
from ibot_hub.features.table import Features, open_features
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions, ExtractOptions, Pool
from ibot_hub.plain_name import plain_name

NAMED = 5  # images that a message names
_OWN = {"images", "listing", "source", "batch_size", "format", "shard_size", "device", "tokens"}  # may differ between two sides


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
    source: str | Path | ClassFolders,
    model: Model | None,
    cache: Path,
    options: EvaluationOptions | None = None,
    *,
    layers: int = 1,
    pool: Pool = "cls",
) -> Labelled:  # fmt: skip
    """The vectors of `source`, which is a folder of class folders (ImageNet's layout), or what `extract` wrote of one.

    Args:
        source: the folder, or what `read_classes` read of it.
        model: what makes the features; None where `source` holds features already.
        cache: the folder that features of images are kept in, so that another protocol, or the same after an interruption, finds them;
            images that were added, removed or changed, seen in another way, or by other weights, have a folder of their own in it.
        layers, pool: as of `extract`.

    Raises:
        SourceError: no image that can be read; UsageError: images without a model, features of another kind than asked, an image in no
        class folder, numbers that are not finite.
    """
    options = options or EvaluationOptions()
    folders = source if isinstance(source, ClassFolders) else read_classes(source)
    check_made(folders.source, options, layers, pool)
    features = _features(folders, model, cache, options, layers, pool)
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
    check_classes(train.classes, val.classes, train.manifest.source, val.manifest.source)
    if (train.manifest.source, train.manifest.listing) == (val.manifest.source, val.manifest.listing):
        print(f"both sides are the same images, of {val.manifest.source}: nothing new is asked", file=sys.stderr)
    place = {name: index for index, name in enumerate(train.classes)}
    absent = [name for name in train.classes if name not in set(val.classes)]
    if absent:
        count = f"{len(absent)} of {len(train.classes)} classes, such as {absent[0]!r}, have"
        print(f"{count} no image in {val.manifest.source}", file=sys.stderr)
    places = torch.tensor([place[name] for name in val.classes])
    return train, replace(val, labels=places[val.labels], classes=train.classes)


def told_left_out(source: str, paths: Sequence[str]) -> None:
    """Say on standard error which images could not be read."""
    if paths:
        count, verb = ("1 image", "is") if len(paths) == 1 else (f"{len(paths)} images", "are")
        names = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
        print(f"{count} of {source} could not be read and {verb} left out: {names}", file=sys.stderr)


def left_out(**sides: Labelled) -> dict[str, int]:
    """How many images of each side could not be read, as a record keeps it."""
    return {name: side.failed for name, side in sides.items()}


def check_made(source: str | Path, options: EvaluationOptions, layers: int, pool: Pool) -> None:
    """Raises UsageError where `source` holds features of another kind than asked."""
    if not (Path(source) / MANIFEST).exists():
        return
    manifest = read_manifest(Path(source))
    seen = manifest.preprocessing
    made = {"layers": manifest.layers, "pool": manifest.pool, "size": seen["size"], "resize": seen["resize"]}
    wanted = {"layers": layers, "pool": pool, "size": options.size or made["size"], "resize": options.resize or made["resize"]}
    apart = [name for name in made if made[name] != wanted[name]]
    if apart:
        held, needed = (", ".join(f"{name} {facts[name]}" for name in apart) for facts in (made, wanted))
        words = " ".join(f"--{name} {value}" for name, value in wanted.items())
        again = f"`ibot extract-features {manifest.source} --model {manifest.model} {words}` makes them"
        raise UsageError(f"{source} holds features of {held}, but {needed} is needed: {again}, or give the images.")


def _features(folders: ClassFolders, model: Model | None, cache: Path, options: EvaluationOptions, layers: int, pool: Pool) -> Features:
    """What a folder of features holds, or what an extraction gives."""
    if folders.state is None:
        return open_features(folders.source)
    if model is None:
        raise UsageError(f"{folders.source} holds images, not features; say which model is to see them.")
    asked = ExtractOptions(
        layers=layers, pool=pool, size=options.size, resize=options.resize, dtype=options.dtype, device=options.device,
        batch_size=options.batch_size, workers=options.workers, part="0/1",
    )  # fmt: skip
    return open_features(extract(model, folders.source, cache / _folder_name(model, folders, asked), asked).out)


def _folder_name(model: Model, folders: ClassFolders, asked: ExtractOptions) -> str:
    """One for each source as it is now, weights, and way of seeing, so that no extraction meets the folder of another one."""
    path = Path(folders.source)
    facts = [str(path.absolute()), folders.state, weights_digest(model.backbone), asdict(replace(asked, workers=None))]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]
    words = (*Path(model.card.name).parts[-2:], *path.parts[-2:], asked.pool, str(asked.layers), digest)
    return plain_name("-".join(words))


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
        made = f"The features of {train.source} and {val.source} were made differently: {'; '.join(apart)}"
        raise UsageError(f"{made}; extract both alike, or give the images of both.")
