"""How well images find others of their class by the cosine of their features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.precision import KS, rank_precision
from ibot_hub.evaluation.table import Table


@dataclass(frozen=True, eq=False)
class RetrievalReport:
    """How early images of the query's class come."""

    mean_ap: float  # per cent
    ks: tuple[int, ...]
    mean_at: tuple[float, ...]  # per cent, mean precision at each of `ks`
    ap: Tensor  # float64 [M], 0..1, of each query, so that any subset of them can be reported
    images: int  # N, of the gallery
    queries: int  # M

    @property
    def table(self) -> Table:
        """One row."""
        columns = ("queries", "images", "mAP", *(f"mP@{k}" for k in self.ks))
        return Table("Retrieval, per cent", columns, ((self.queries, self.images, self.mean_ap, *self.mean_at),))


def retrieval(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor | None = None,
    query_labels: Tensor | None = None,
    ks: Sequence[int] = KS,
    classes: Sequence[str] = (),
) -> RetrievalReport:
    """Let each query rank the gallery; the images of its class are right.

    Precision is counted as in the revisited Oxford and Paris benchmark (see `ibot_hub.evaluation.precision`).

    Args:
        gallery: features [N, F]; their device computes.
        labels: whole numbers [N].
        queries, query_labels: [M, F] and [M]; without them each image of the gallery asks for the others of its class, and is
            itself taken out of its answers.
        classes: names of the labels, for messages.

    Raises:
        UsageError: rows that do not fit together, features that are not finite, a gallery of one class, a query that no image of the
        gallery can answer.
    """
    own = queries is None or query_labels is None
    asked, wanted = (gallery, labels) if queries is None or query_labels is None else (queries, query_labels)
    for features, truth_of, name in ((gallery, labels, "gallery"), (asked, wanted, "queries")):
        if features.ndim != 2 or not len(features) or truth_of.shape != features.shape[:1]:
            shapes = f"features {list(features.shape)} and labels {list(truth_of.shape)}"
            raise UsageError(f"The {name} must be rows of features with one label a row; these are {shapes}.")
    if not ks or min(ks) < 1:
        raise UsageError(f"ks is {list(ks)}; each number of answers must be at least 1.")
    _check_answerable(labels.cpu(), wanted.cpu(), own, classes)
    columns = torch.arange(len(gallery))

    def truth(part: slice) -> tuple[Tensor, Tensor]:
        right = wanted[part].cpu()[:, None] == labels.cpu()
        itself = torch.arange(part.start, part.stop)[:, None] == columns
        return right, itself if own else torch.zeros_like(right)

    found = rank_precision(gallery, asked, truth, ks)
    return RetrievalReport(found.mean_ap, tuple(ks), found.mean_at, found.ap, len(gallery), len(asked))


def check_gallery(images: Mapping[str, int]) -> None:
    """Raises UsageError for classes, with how many images each has, of which one has no other image to find, or for a single class."""
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(list(images.values())))
    _check_answerable(labels, labels, True, list(images))


def _check_answerable(labels: Tensor, wanted: Tensor, own: bool, classes: Sequence[str]) -> None:
    present, counts = labels.unique(return_counts=True)
    if len(present) == 1:
        raise UsageError("All images of the gallery are of one class, so that every answer is right; give several class folders.")
    lost = wanted[~torch.isin(wanted, present[counts > own])]
    if not len(lost):
        return
    name = repr(classes[int(lost[0])]) if classes else int(lost[0])
    if own:
        raise UsageError(f"Class {name} has a single image, which finds no other; leave it out, or name queries.")
    raise UsageError(f"Class {name} has no image in the gallery; of the queries, {len(lost)} are of such classes.")
