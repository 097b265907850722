"""Weighted k-nearest-neighbour classification of features."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.ranks import top, true_ranks
from ibot_hub.evaluation.table import Table

KS = (10, 20, 100, 200)  # numbers of neighbours in the paper
INDEX_CHUNK = 65536  # images of the index, and
QUERY_CHUNK = 1024  # queries, whose similarities are in memory at a time
TEMPERATURE = 0.07  # of the votes, in units of the cosine
VOTES = 2**24  # in memory at a time: queries times classes


@dataclass(frozen=True, eq=False)
class KnnReport:
    """How many queries their neighbours name rightly."""

    ks: tuple[int, ...]  # numbers of neighbours
    top1: tuple[float, ...]  # per cent of the queries, for each of `ks`
    top5: tuple[float, ...]
    correct: Tensor  # bool [ks, M] on the CPU: top-1 of each query, so that any subset of them can be reported
    images: int  # N, of the index
    queries: int  # M
    classes: int  # of the index

    @property
    def table(self) -> Table:
        """A row for each number of neighbours."""
        rows = tuple(zip(self.ks, self.top1, self.top5, strict=True))
        return Table("k-NN on [CLS], weighted, per cent of the queries (Tables 1, 10, 15)", ("k", "top-1", "top-5"), rows)

    @property
    def numbers(self) -> dict[str, Any]:
        """What a record keeps."""
        counts = {"images": self.images, "queries": self.queries, "classes": self.classes}
        return {"k": self.ks, "top1": self.top1, "top5": self.top5, **counts}


def parse_ks(text: str) -> list[int]:
    """Numbers of neighbours with commas between. Raises UsageError."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UsageError(f"k is {text!r}; it must be numbers with commas between, as in 10,20.")
    return [int(number) for number in text.split(",")]


def ks_up_to(images: int) -> list[int]:
    """The paper's numbers of neighbours of which there are as many images. Raises UsageError where there is none."""
    if images < min(KS):
        raise UsageError(f"There are {images} training images, fewer than the paper's smallest k, {min(KS)}; take more, or give smaller k.")
    return [k for k in KS if k <= images]


def chosen_ks(asked: Sequence[int] | None, images: int) -> list[int]:
    """The numbers of neighbours that were asked for, else the paper's of which there are as many images.

    Raises UsageError for one of which there are not, and where there is none of the paper's.
    """
    if asked is None:
        return ks_up_to(images)
    if not asked or not 1 <= min(asked) <= max(asked) <= images:
        raise UsageError(f"k is {list(asked)}; there are {images} training images, so each must be from 1 to {images}.")
    return list(asked)


@torch.no_grad()
def knn(
    index: Tensor,
    index_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> KnnReport:
    """Let the k nearest images of the index vote for the class of each query, as DINO and iBOT do (Tables 1 and 10).

    Similarity is the cosine, in float32; a neighbour's vote weighs exp(similarity / temperature). Classes with equal votes rank
    by their label, and a class without a vote is not among the best five (the official code fills these places by chance).
    Besides what it is given it takes the queries in float32, 12 bytes a neighbour and about 0.6 GB.

    Args:
        index: features [N, D] of any length, type and device; that device computes.
        index_labels: whole numbers [N], in any range.
        queries: features [M, D].
        query_labels: whole numbers [M].
        ks: numbers of neighbours, each from 1 to N; more than there are is an error, as the number would promise what is not there.
        temperature: in units of the cosine.

    Raises:
        UsageError: rows, lengths or labels that do not fit together, a number out of range, or features that are not finite.
    """
    _check_rows(index, index_labels, "index")
    _check_rows(queries, query_labels, "queries")
    if index.shape[1] != queries.shape[1]:
        raise UsageError(f"Features of the index have length {index.shape[1]}, those of the queries {queries.shape[1]}.")
    chosen_ks(ks, len(index))
    if temperature <= 0:
        raise UsageError(f"temperature is {temperature}; it must be above 0.")
    device = index.device
    classes, index_labels = torch.unique(index_labels.to(device, torch.int64), return_inverse=True)  # [C], places in it [N]
    query_labels = _places(query_labels.to(device, torch.int64), classes)
    similarities, labels = _neighbours(index, index_labels, _normalised(queries.to(device), "queries"), max(ks))
    ranks = torch.empty(len(ks), len(queries), dtype=torch.int64, device=device)
    step = max(1, VOTES // len(classes))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        ranks[:, part] = _ranks(similarities[part], labels[part], query_labels[part], ks, temperature, len(classes))
    ranks = ranks.cpu()
    top1, top5 = (tuple(top(ranks, best).tolist()) for best in (1, 5))
    return KnnReport(tuple(ks), top1, top5, ranks == 0, len(index), len(queries), len(classes))


def _check_rows(features: Tensor, labels: Tensor, name: str) -> None:
    if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
        shapes = f"features {list(features.shape)} and labels {list(labels.shape)}"
        raise UsageError(f"The {name} must be rows of features with one label a row; these are {shapes}.")


def _places(labels: Tensor, classes: Tensor) -> Tensor:
    """Where each label stands in the sorted `classes`."""
    places = torch.searchsorted(classes, labels.contiguous()).clamp(max=len(classes) - 1)
    missing = labels[classes[places] != labels]
    if len(missing):
        raise UsageError(f"Class {int(missing[0])} has no image in the index; of the queries, {len(missing)} are of such classes.")
    return places


def _normalised(features: Tensor, name: str, first: int = 0) -> Tensor:
    """Rows of length 1 in float32; `first` is the number of the first one, for the message."""
    features = features.float()
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    broken = (~lengths.isfinite()).nonzero()
    if len(broken):
        raise UsageError(f"Feature {first + int(broken[0, 0])} of the {name} is not finite: the weights or the precision are wrong.")
    return features.div(lengths.clamp(min=1e-12))


def _neighbours(index: Tensor, labels: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and labels [M, k] of the k nearest images of the index, nearest first; `queries` are of length 1."""
    best = queries.new_full((len(queries), k), -torch.inf)
    best_labels = labels.new_zeros(len(queries), k)
    for first in range(0, len(index), INDEX_CHUNK):
        rows = _normalised(index[first : first + INDEX_CHUNK], "index", first)
        for start in range(0, len(queries), QUERY_CHUNK):
            part = slice(start, start + QUERY_CHUNK)
            found, places = (queries[part] @ rows.T).topk(min(k, len(rows)))
            best[part], order = torch.cat([best[part], found], dim=1).topk(k)
            best_labels[part] = torch.cat([best_labels[part], labels[first + places]], dim=1).gather(1, order)
    return best, best_labels


def _ranks(similarities: Tensor, labels: Tensor, truth: Tensor, ks: Sequence[int], temperature: float, classes: int) -> Tensor:
    """How many classes come before the true one, [ks, m]; all of them where it has no vote."""
    weights = ((similarities - similarities[:, :1]) / temperature).exp()  # the nearest weighs 1, so nothing overflows
    ranks = []
    for k in ks:
        votes = weights.new_zeros(len(truth), classes).scatter_add_(1, labels[:, :k], weights[:, :k])
        voted = votes.gather(1, truth[:, None])[:, 0] > 0  # [m]
        ranks.append(true_ranks(votes, truth).where(voted, classes))
    return torch.stack(ranks)
