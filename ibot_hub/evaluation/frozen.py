"""The frozen set: what the features of a model are worth, by several protocols on one pass over the images."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ibot_hub.evaluation.clustering import cluster
from ibot_hub.evaluation.knn import TEMPERATURE, knn, ks_up_to
from ibot_hub.evaluation.labelled import Labelled, labelled, pair
from ibot_hub.evaluation.linear import LAYERS, linear, probed
from ibot_hub.evaluation.logistic import logistic
from ibot_hub.evaluation.options import ReportOptions
from ibot_hub.evaluation.record import Record, record, write_record
from ibot_hub.features.plan import weights_digest
from ibot_hub.model import Model
from ibot_hub.options import Pool


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured of one model."""

    records: tuple[Record, ...]  # in the order of the protocols
    val: Labelled  # [CLS] of the validation images
    failed: int  # images of both sides that could not be read

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
        SourceError: no images; UsageError: a class that only `val` has, too few images; StoreError: `out` cannot be written.
    """
    options = replace(options or ReportOptions(), **changes)
    layers = min(LAYERS, model.depth)
    sides = [labelled(side, model, Path(out) / "features", options, layers=layers, pool="cls+mean") for side in (train, val)]
    one, other = pair(*sides)
    records = []
    for done in _measured(model, one, other, {"train": str(train), "val": str(val)}, options):
        write_record(done, Path(out))
        records.append(done)
    return Evaluation(tuple(records), _part(other, model, 1, "cls"), sum(side.failed for side in sides))


def folder_of(model: Model) -> str:
    """A name for the folder of a model's records: "vit_s16", "org-name", and the beginning of the weights' digest behind it."""
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', model.card.name).strip('-.')[-60:]}-{weights_digest(model.backbone)[:8]}"


def _measured(model: Model, train: Labelled, val: Labelled, data: dict[str, str], options: ReportOptions) -> Iterator[Record]:
    """The protocols one after the other, the quick ones first."""
    one, other = (_part(side, model, 1, "cls") for side in (train, val))
    sides = (one.features, one.labels, other.features, other.labels)
    near = knn(*sides, ks_up_to(len(one.features)))
    yield record(one.manifest, "knn", data, {"temperature": TEMPERATURE}, near.numbers, near.table)
    clusters = cluster(other, model, by="all", seed=options.seed)
    yield record(other.manifest, "cluster", {"val": data["val"]}, {"seed": options.seed}, clusters.numbers, clusters.table)
    regression = logistic(*sides, seed=options.seed)
    yield record(one.manifest, "logistic", data, {"seed": options.seed, "select": regression.select}, regression.numbers, regression.table)
    layers, pool = probed(model)
    one, other = (_part(side, model, layers, pool) for side in (train, val))
    probe = linear(one.features, one.labels, other.features, other.labels, epochs=options.epochs, seed=options.seed)
    settings = {"epochs": options.epochs, "seed": options.seed, "select": probe.select, "augment": False}
    yield record(one.manifest, "linear", data, settings, probe.numbers, probe.table)


def _part(side: Labelled, model: Model, layers: int, pool: Pool) -> Labelled:
    """Of the [CLS] of several blocks and the mean patch behind them: those of the last `layers`, with the mean or without."""
    widths = model.widths[-side.manifest.layers :]
    stop = sum(widths) + (widths[-1] if pool == "cls+mean" else 0)
    start = sum(widths) - sum(widths[-layers:])
    features: Tensor = side.features[:, start:stop]
    manifest = replace(side.manifest, layers=layers, pool=pool, columns={"feature": [features.shape[1]]})
    return replace(side, features=features, manifest=manifest)
