"""How well a few labelled images tell classes apart, by k-NN and by logistic regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.knn import KnnReport, knn
from ibot_hub.evaluation.logistic import LogisticReport, logistic
from ibot_hub.evaluation.options import LogisticOptions
from ibot_hub.evaluation.table import Table


@dataclass(frozen=True, eq=False)
class LowshotReport:
    """Both protocols on each part of the training images."""

    splits: tuple[str, ...]  # what each part is called
    knn: tuple[KnnReport, ...]
    logistic: tuple[LogisticReport, ...]

    @property
    def table(self) -> Table:
        """A row for each number of neighbours, and one for the regression, of each split."""
        rows: list[tuple[str | int | float, ...]] = []
        for name, near, fitted in zip(self.splits, self.knn, self.logistic, strict=True):
            rows += [(name, near.images, f"k-NN, k = {k}", one, five) for k, one, five in zip(near.ks, near.top1, near.top5, strict=True)]
            rows.append((name, near.images, f"logistic, lambda = {fitted.penalty:.3g}", fitted.top1, fitted.top5))
        title = "Low-shot on frozen [CLS], per cent of the queries (Tables 4, 12)"
        return Table(title, ("split", "images", "protocol", "top-1", "top-5"), tuple(rows))

    @property
    def numbers(self) -> dict[str, Any]:
        """What a record keeps."""
        both = zip(self.splits, self.knn, self.logistic, strict=True)
        return {name: {"knn": near.numbers, "logistic": fitted.numbers} for name, near, fitted in both}


def lowshot(
    features: Tensor,
    labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    splits: Sequence[tuple[str, Tensor]],
    ks: Sequence[int],
    options: LogisticOptions | None = None,
) -> LowshotReport:
    """Measure k-NN and logistic regression on parts of the training images (Table 12, frozen features).

    Args:
        features: of all training images, [N, F].
        labels: whole numbers [N] from 0 on.
        val, val_labels: the queries, [M, F] and [M].
        splits: names and rows [n] of the parts; every class of `val_labels` must be among the images of each.
        ks: numbers of neighbours; of a part that has fewer images than the largest, those that there are.
        options: of the regression.

    Raises:
        UsageError: a part with one image of each class, of which none can be held out; and as of `knn` and `logistic`.
    """
    how = options or LogisticOptions()
    for name, rows in splits:
        if how.select == "held-out" and int(labels[rows].bincount().max()) == 1:
            raise UsageError(
                f"{name} holds one image of each class, so none can be held out to choose the penalty by; "
                "take a larger share (--percent), or say --select validation."
            )
    near, fitted = [], []
    for _, rows in splits:
        few, own = features[rows], labels[rows]
        near.append(knn(few, own, val, val_labels, [k for k in ks if k <= len(rows)] or [len(rows)]))
        fitted.append(logistic(few, own, val, val_labels, how))
    return LowshotReport(tuple(name for name, _ in splits), tuple(near), tuple(fitted))
