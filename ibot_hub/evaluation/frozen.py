"""The frozen set: what features are worth, by several protocols on one pass over the images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.class_folders import ClassFolders, check_classes, read_classes
from ibot_hub.evaluation.clustering import cluster
from ibot_hub.evaluation.knn import TEMPERATURE, chosen_ks, knn, ks_up_to
from ibot_hub.evaluation.labelled import Labelled, labelled, left_out, pair, told_left_out
from ibot_hub.evaluation.linear import LAYERS, linear, probed
from ibot_hub.evaluation.logistic import logistic
from ibot_hub.evaluation.options import LogisticOptions, ReportOptions, SweepOptions
from ibot_hub.evaluation.record import Record, record, write_record
from ibot_hub.evaluation.subsets import check_held_out
from ibot_hub.features.plan import weights_digest
from ibot_hub.features.store import read_manifest
from ibot_hub.model import Model
from ibot_hub.options import Pool
from ibot_hub.plain_name import plain_name


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured of one model."""

    records: tuple[Record, ...]  # in the order of the protocols
    val: Labelled  # [CLS] of the validation images

    @property
    def model(self) -> str:
        return self.records[0].model


def evaluate(
    model: Model, train: str | Path, val: str | Path, out: str | Path, options: ReportOptions | None = None, **changes: Any
) -> Evaluation:  # fmt: skip
    """Measure k-NN, logistic regression, linear probing and clusters (Tables 1, 5 and 12) of frozen features.

    One pass over the images makes the features of all protocols; they stay in `out`/features, so that a stopped evaluation goes on.
    Each record is written as soon as it is measured.

    Args:
        train, val: folders of class folders (ImageNet's layout), or lists or shards of images in class folders.
        out: a folder for this model's records and features.
        options: `changes` are fields of it by name.

    Raises:
        SourceError: no images; UsageError: a class that only `val` has, too few images, features
        of another model; StoreError: `out` cannot be written.
    """
    options = replace(options or ReportOptions(), **changes)
    layers = min(LAYERS, model.depth)
    sides = [read_classes(source) for source in (train, val)]
    check_classes(sides[0].images, sides[1].images, str(train), str(val))  # all this before hours of work
    chosen_ks(None, sum(sides[0].images.values()))
    check_held_out(sides[0].images.values())
    for folders in sides:
        _check_made_by(model, folders)
    seen = [labelled(folders, model, Path(out) / "features", options, layers=layers, pool="cls+mean") for folders in sides]
    for side in seen:
        told_left_out(side.manifest.source, side.broken)
    one, other = pair(*seen)
    cls, wide = ((_part(one, model, *kind), _part(other, model, *kind)) for kind in _kinds(model))
    return measure(cls, wide, {"train": str(train), "val": str(val)}, Path(out), options, model)


def measure(
    cls: tuple[Labelled, Labelled],
    wide: tuple[Labelled, Labelled],
    data: dict[str, str],
    out: Path,
    options: ReportOptions,
    model: Model | None = None,
) -> Evaluation:
    """The protocols on features of training and validation images; each record is written as soon as it is measured.

    Args:
        cls: of each image the vector that k-NN, clusters and logistic regression are about.
        wide: the vector that linear probing is about; both pairs are as `pair` gives them.
        data: the two sources, as the record names them: "train" and "val".
        model: what made the features, if its head is to be asked too.
    """
    records = []
    for done in _measured(cls, wide, data, options, model):
        write_record(done, out)
        records.append(done)
    return Evaluation(tuple(records), cls[1])


def folder_of(model: Model) -> str:
    """A name for the folder of a model's records: "vit_s16", "org-name", and the beginning of the weights' digest behind it."""
    return f"{plain_name(model.card.name)[-60:]}-{weights_digest(model.backbone)[:8]}"


def _measured(
    cls: tuple[Labelled, Labelled], wide: tuple[Labelled, Labelled], data: dict[str, str], options: ReportOptions, model: Model | None
) -> Iterator[Record]:
    """The protocols one after the other, the quick ones first."""
    one, other = cls
    lost = {"left_out": left_out(train=one, val=other)}
    sides = (one.features, one.labels, other.features, other.labels)
    near = knn(*sides, ks_up_to(len(one.features)))
    yield record(one.manifest, "knn", data, {"temperature": TEMPERATURE}, {**near.numbers, **lost}, near.table)
    clusters = cluster(other, model, by="all", seed=options.seed)
    yield record(
        other.manifest,
        "cluster",
        {"val": data["val"]},
        {"seed": options.seed},
        {**clusters.numbers, "left_out": left_out(val=other)},
        clusters.table,
    )
    regression = logistic(*sides, seed=options.seed)
    yield record(
        one.manifest,
        "logistic",
        data,
        {"seed": options.seed, "select": regression.select, "held_out": LogisticOptions.held_out},
        {**regression.numbers, **lost},
        regression.table,
    )
    one, other = wide
    probe = linear(one.features, one.labels, other.features, other.labels, epochs=options.epochs, seed=options.seed, device=options.device)
    settings = {"epochs": options.epochs, "seed": options.seed, "select": probe.select, "augment": False, "held_out": SweepOptions.held_out}
    settings["step_images"] = SweepOptions.step_images
    yield record(one.manifest, "linear", data, settings, {**probe.numbers, **lost}, probe.table)


def _check_made_by(model: Model, folders: ClassFolders) -> None:
    """Raises UsageError where a side holds features of another model."""
    if folders.state is None:
        manifest = read_manifest(Path(folders.source))
        if manifest.weights != weights_digest(model.backbone):
            raise UsageError(f"{folders.source} holds features by {manifest.model}, whose weights are not those of {model.card.name}.")


def _kinds(model: Model) -> tuple[tuple[int, Pool], tuple[int, Pool]]:
    """Layers and pool of the one vector of most protocols, and of that for linear probing."""
    return (1, "cls"), probed(model)


def _part(side: Labelled, model: Model, layers: int, pool: Pool) -> Labelled:
    """Of the [CLS] of several blocks and the mean patch behind them: those of the last `layers`, with the mean or without."""
    widths = model.widths[-side.manifest.layers :]
    stop = sum(widths) + (widths[-1] if pool == "cls+mean" else 0)
    start = sum(widths) - sum(widths[-layers:])
    features: Tensor = side.features[:, start:stop]
    manifest = replace(side.manifest, layers=layers, pool=pool, columns={"feature": [features.shape[1]]})
    return replace(side, features=features, manifest=manifest)
