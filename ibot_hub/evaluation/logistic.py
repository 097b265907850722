"""Multinomial logistic regression on features of length 1, its penalty chosen on images held out."""

import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.evaluation.extra import needed
from ibot_hub.evaluation.options import LogisticOptions, Select
from ibot_hub.evaluation.ranks import top, true_ranks
from ibot_hub.evaluation.sides import check_sides
from ibot_hub.evaluation.subsets import held_out
from ibot_hub.evaluation.table import Table

LAMBDAS = (0.01, 0.1, 1.0)  # the official ones
TOLERANCE = 1e-3  # of the gradient, by that at weights of zero
ITERATIONS = 1000  # of L-BFGS, at most

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LogisticReport:
    """How many queries a logistic regression names rightly."""

    lambdas: tuple[float, ...]  # penalties that were tried, largest first
    chosen_on: tuple[float, ...]  # top-1 in per cent for each of them, on what `select` says
    select: Select
    penalty: float  # the one of `lambdas` that was chosen
    top1: float  # per cent of the queries
    top5: float
    correct: Tensor  # bool [M] on the CPU: top-1 of each query
    images: int  # N that it was trained on
    queries: int  # M
    classes: int
    weight: Tensor  # float32 [classes, F], of the classes in ascending order

    @property
    def table(self) -> Table:
        """A row for each penalty."""
        tops = {self.penalty: (self.top1, self.top5)}
        rows = ((f"{one:.3g}", chosen, *tops.get(one, (None, None))) for one, chosen in zip(self.lambdas, self.chosen_on, strict=True))
        title = "Logistic regression on [CLS], per cent of the queries (Table 12)"
        return Table(title, ("lambda", f"on {self.select}", "top-1", "top-5"), tuple(rows))

    @property
    def numbers(self) -> dict[str, Any]:
        """What a record keeps."""
        counts = {"images": self.images, "queries": self.queries, "classes": self.classes}
        chosen = {"lambdas": self.lambdas, "chosen_on": self.chosen_on, "lambda": self.penalty}
        return {"top1": self.top1, "top5": self.top5, **chosen, **counts}


def penalties(images: int) -> tuple[float, ...]:
    """The official lambdas for that many images, and these divided by the number of images, largest first.

    That they are 0.01, 0.1 and 1 is known, and that the official solver weighs lambda / 2 |W|^2 beside the mean loss; whether they were
    divided by the number of images before is not. Undivided they are so strong that every image goes to the nearest mean of a class.
    """
    return tuple(sorted({one / by for one in LAMBDAS for by in (1, images)}, reverse=True))


def logistic(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, options: LogisticOptions | None = None, **changes: Any
) -> LogisticReport:  # fmt: skip
    """Train a linear classifier without intercept on features of length 1, and measure it on the validation images (Table 12).

    It minimises mean(-log p(class)) + lambda / 2 |W|^2, by scikit-learn's LogisticRegression with C = 1 / (lambda N). Lambda is chosen on a
    part of the training images of every class, and all of them train the classifier that is measured; with select="validation", as
    the official code does it, the best of all on the validation images is taken: a number that nothing new confirms.

    Args:
        train: features [N, F] of any length.
        train_labels: whole numbers [N] from 0 on.
        val: features [M, F].
        val_labels: whole numbers [M], of classes that the training images have.
        options: `changes` are fields of it by name.

    Raises:
        UsageError: rows, lengths or labels that do not fit together, features that are not finite, none that can be held out, or no
        scikit-learn.
    """
    options = replace(options or LogisticOptions(), **changes)
    check_sides(train, train_labels, val, val_labels)
    classes, labels = train_labels.unique(return_inverse=True)  # [C] ascending, places in it [N]
    truth = torch.searchsorted(classes, val_labels.contiguous())
    rows, queries = (F.normalize(side.float().cpu(), dim=1) for side in (train, val))
    lambdas = options.penalties or penalties(len(train))
    if options.select == "validation":
        weights = _path(rows, labels, lambdas)
        ranks = [true_ranks(queries @ weight.T, truth) for weight in weights]
        chosen = [float(top(rank)) for rank in ranks]
        best = chosen.index(max(chosen))
        weight, rank = weights[best], ranks[best]
    else:
        kept, held = held_out(labels, options.held_out, options.seed)
        chosen = [float(top(true_ranks(rows[held] @ weight.T, labels[held]))) for weight in _path(rows[kept], labels[kept], lambdas)]
        best = chosen.index(max(chosen))
        [weight] = _path(rows, labels, (lambdas[best],))
        rank = true_ranks(queries @ weight.T, truth)
    return LogisticReport(
        lambdas, tuple(chosen), options.select, lambdas[best], float(top(rank)), float(top(rank, 5)), rank == 0,
        len(train), len(val), len(classes), weight,
    )  # fmt: skip


def _path(rows: Tensor, labels: Tensor, lambdas: tuple[float, ...]) -> list[Tensor]:
    """Weights [C, F] for each lambda; the next begins where the last ended, so the largest come first."""
    estimator = needed("sklearn.linear_model").LogisticRegression
    unconverged = needed("sklearn.exceptions").ConvergenceWarning
    count = int(labels.max()) + 1
    # the gradient at weights of zero, [C, F]; with two classes the library has one row of weights, which is their difference
    means = torch.zeros(count, rows.shape[1]).index_add_(0, labels, rows) / len(rows)
    slope = float((rows.mean(dim=0) / count - means).abs().max())
    model = estimator(fit_intercept=False, tol=TOLERANCE * slope, max_iter=ITERATIONS, warm_start=True)
    weights = []
    for penalty in lambdas:
        # |W|^2 of two opposite rows is half of their difference's
        model.set_params(C=(2 if count == 2 else 1) / (penalty * len(rows)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", unconverged)
            model.fit(rows.numpy(), labels.numpy())
        if any(issubclass(one.category, unconverged) for one in caught):
            print(f"lambda {penalty:.3g}: stopped after {int(model.n_iter_.max())} iterations, not yet at the optimum", file=sys.stderr)
        found: Floats = model.coef_
        weights.append(torch.from_numpy(np.concatenate([-found / 2, found / 2]) if count == 2 else found.copy()).float())
    return weights
