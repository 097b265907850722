"""How well clusters of images agree with their classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibot_hub.evaluation.extra import needed

Counts = npt.NDArray[np.int64]  # [pairs, 3]: a cluster, a class, and the images that have both; sorted, no pair twice


@dataclass(frozen=True)
class Agreement:
    """Three indices of the same partition, whatever the names of clusters and classes; each at most 1."""

    nmi: float  # mutual information by the arithmetic mean of both entropies
    ari: float  # adjusted Rand index, about 0 by chance
    fmi: float  # Fowlkes-Mallows index


def counted(clusters: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> Counts:
    """Images [N] by their cluster and class, both from 0 to 2^31 - 1."""
    return summed(np.column_stack([clusters, classes, np.ones(len(clusters), dtype=np.int64)]))


def summed(counts: Counts) -> Counts:
    """Counts in any order, whose pairs may come more than once -> each pair once, sorted."""
    clusters, classes, images = counts.T
    pairs, places = np.unique(clusters << 32 | classes, return_inverse=True)
    total = np.bincount(places, weights=images).astype(np.int64)  # exact below 2^53
    return np.column_stack([pairs >> 32, pairs & 0xFFFFFFFF, total])


def agreement(counts: Counts) -> Agreement:
    """The indices of at least one image. Raises UsageError where scikit-learn is not installed."""
    metrics = needed("sklearn.metrics")
    clusters, classes = (np.repeat(column, counts[:, 2]) for column in counts[:, :2].T)
    return Agreement(
        float(metrics.normalized_mutual_info_score(classes, clusters)),
        float(metrics.adjusted_rand_score(classes, clusters)),
        float(metrics.fowlkes_mallows_score(classes, clusters)),
    )


def assigned_share(counts: Counts) -> float:
    """The share of images that are in the cluster of their class (ACC), for the best one-to-one assignment of clusters to classes.

    With more clusters than classes those left over are wrong whatever they hold, and with fewer so are the classes left over.
    Raises UsageError where scipy is not installed.
    """
    clusters, rows = np.unique(counts[:, 0], return_inverse=True)
    classes, columns = np.unique(counts[:, 1], return_inverse=True)
    images = np.zeros((len(clusters), len(classes)), dtype=np.int64)
    images[rows, columns] = counts[:, 2]
    chosen = needed("scipy.optimize").linear_sum_assignment(images, maximize=True)
    return float(images[chosen].sum() / images.sum())
