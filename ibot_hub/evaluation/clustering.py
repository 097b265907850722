"""Images fall into clusters, by k-means or by a head, and these are laid beside their classes."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.evaluation.agreement import Agreement, agreement, assigned_share, counted
from ibot_hub.evaluation.class_folders import check_several
from ibot_hub.evaluation.extra import needed
from ibot_hub.evaluation.labelled import Labelled
from ibot_hub.evaluation.options import ClusterOptions
from ibot_hub.evaluation.table import Cell, Table
from ibot_hub.features.plan import weights_digest
from ibot_hub.model import Model
from ibot_hub.patterns.assignment import assigner

LARGE = 200_000  # images from which on k-means learns from parts of them at a time


@dataclass(frozen=True)
class Clustering:
    """One way to clusters, and how well these agree with the classes."""

    way: str  # "k-means", "head"
    clusters: int  # that there could be
    used: int  # of these, with an image
    accuracy: float  # share of images in the cluster of their class, 0..1
    agreement: Agreement


@dataclass(frozen=True)
class ClusterReport:
    """The ways to clusters beside each other."""

    images: int
    classes: int
    ways: tuple[Clustering, ...]

    @property
    def table(self) -> Table:
        """A row for each way."""
        rows: list[tuple[Cell, ...]] = []
        for way in self.ways:
            indices = (way.accuracy, way.agreement.ari, way.agreement.nmi, way.agreement.fmi)
            rows.append((way.way, way.clusters, way.used, *(100 * index for index in indices)))
        title = f"Clusters of {self.images} images of {self.classes} classes, per cent (Table 5)"
        return Table(title, ("by", "clusters", "used", "ACC", "ARI", "NMI", "FMI"), tuple(rows))

    @property
    def numbers(self) -> dict[str, Any]:
        """What a record keeps: indices at most 1."""
        return asdict(self)


def cluster(side: Labelled, model: Model | None = None, options: ClusterOptions | None = None, **changes: Any) -> ClusterReport:
    """Lay clusters of images beside their classes (Table 5).

    Args:
        side: images with classes, whose features are the [CLS] of the last block.
        model: what made them, where its head is asked for.
        options: `changes` are fields of it by name.

    Raises:
        UsageError: images of one class, features of another model, more clusters than images, or no scikit-learn or scipy; WeightsError:
        the head is asked for and there is none.
    """
    options = replace(options or ClusterOptions(), **changes)
    check_clusters(side.classes, len(side.labels), options, side.manifest.source)
    ways = []
    if options.by != "head":
        count = options.clusters or len(side.classes)
        ways.append(measure_clusters("k-means", kmeans(side.features, count, options.seed), count, side.labels))
    if options.by == "head" and model is None:
        raise UsageError("The head is asked for, but no model that has it is given.")
    if model is not None and (options.by == "head" or (options.by == "all" and model.head is not None)):
        ways.append(measure_clusters("head", *head_clusters(model, side), side.labels))
    return ClusterReport(len(side.labels), len(side.classes), tuple(ways))


def check_clusters(classes: Collection[str], images: int, options: ClusterOptions, source: str) -> None:
    """Raises UsageError for a single class, and for more clusters than images."""
    check_several(classes, source)
    if options.by != "head" and (options.clusters or 0) > images:
        raise UsageError(f"{options.clusters} clusters are asked for, but {source} holds {images} images; there must be one for each.")


def measure_clusters(way: str, clusters: Tensor, possible: int, labels: Tensor) -> Clustering:
    """Lay clusters [N], of `possible` ones that there could be, beside classes [N], whole numbers from 0 on.

    Raises UsageError where they differ in length, or scikit-learn or scipy is not installed.
    """
    if clusters.shape != labels.shape or not len(labels):
        raise UsageError(f"Clusters {list(clusters.shape)} and labels {list(labels.shape)} must be one each an image.")
    counts = counted(clusters.cpu().numpy(), labels.cpu().numpy())
    return Clustering(way, possible, len(np.unique(counts[:, 0])), assigned_share(counts), agreement(counts))


def kmeans(features: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """The cluster [N] of each of the features [N, F], which are brought to length 1, by scikit-learn's k-means.

    One start by k-means++; of more than 200,000 images by MiniBatchKMeans. The same seed gives the same clusters.

    Raises:
        UsageError: more clusters than images, features that are not finite, or no scikit-learn.
    """
    if features.ndim != 2 or not 1 <= clusters <= len(features):
        raise UsageError(f"{clusters} clusters are asked for, of features {list(features.shape)}; there must be an image for each.")
    broken = (~features.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise UsageError(f"Feature {int(broken[0, 0])} is not finite: the weights or the precision are wrong.")
    library = needed("sklearn.cluster")
    estimator = library.MiniBatchKMeans if len(features) > LARGE else library.KMeans
    rows = F.normalize(features.float().cpu(), dim=1).numpy()
    found = estimator(clusters, n_init=1, random_state=seed).fit_predict(rows)
    return torch.from_numpy(found).long()


def head_clusters(model: Model, side: Labelled) -> tuple[Tensor, int]:
    """The pattern [N] that the head finds most likely for each image, by raw logits of its [CLS] (official), and how many it knows.

    Raises:
        WeightsError: the model has no head; UsageError: the features are not its [CLS].
    """
    if model.head is None:
        raise WeightsError(f"{model.card.name} was loaded without its projection head; load it with head=True.")
    if side.manifest.weights != weights_digest(model.backbone) or (side.manifest.layers, side.manifest.pool) != (1, "cls"):
        raise UsageError(
            f"The features of {side.manifest.source} are not the [CLS] of {model.card.name}, which its head needs; give the images."
        )
    assign = assigner(model.head, "cls")
    found = [assign(part.to(model.device, model.dtype)).patterns for part in side.features.split(4096)]
    return torch.cat(found).cpu(), len(assign.rows)
