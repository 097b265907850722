"""Linear probing: a linear classifier of frozen features, its learning rate chosen among 45."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ibot_hub.devices import choose_devices
from ibot_hub.evaluation.options import Select, SweepOptions
from ibot_hub.evaluation.ranks import top
from ibot_hub.evaluation.sides import check_sides
from ibot_hub.evaluation.subsets import held_out
from ibot_hub.evaluation.sweep import RATES, Batches, Classifiers, measure, shuffled, training
from ibot_hub.evaluation.table import Cell, Table
from ibot_hub.model import Model
from ibot_hub.options import Pool
from ibot_hub.swin import Swin

SMALL = 768  # width of the first ViT that is probed on [CLS] and the mean patch
LAYERS = 4  # whose [CLS] the smaller ones are probed on


@dataclass(frozen=True, eq=False)
class LinearReport:
    """How well a linear classifier names the classes of the validation images."""

    rates: tuple[float, ...]  # learning rates, for steps of 256 images
    accuracies: tuple[float, ...]  # top-1 of each, per cent of the images that the rate was chosen on; with "validation" the best epoch's
    select: Select  # what these images are
    chosen_on: int  # how many
    rate: float  # the best of `rates`
    epoch: int  # after which the chosen classifier was taken, from 1
    top1: float  # of the chosen classifier, per cent of the validation images
    top5: float
    correct: Tensor  # bool [M] on the CPU: top-1 of each validation image
    weight: Tensor  # [C, F] float32 on the CPU, of the chosen classifier
    bias: Tensor  # [C]
    images: int  # N, of training
    augmented: bool  # whether each epoch saw fresh crops

    @property
    def table(self) -> Table:
        """The accuracies of the rates, a row for each power of ten."""
        seen = "fresh random crops in each epoch" if self.augmented else "features computed once, without augmentation"
        where = "validation images" if self.select == "validation" else "held-out training images"
        title = (
            f"linear probing (Table 1): top-1 {self.top1:.2f}, top-5 {self.top5:.2f} per cent of {len(self.correct)} validation images\n"
            f"trained on {seen}; learning rate {self.rate:g}; top-1 of all rates, per cent of {self.chosen_on} {where}"
        )
        rows: list[tuple[Cell, ...]] = [(f"{self.rates[row]:g}", *self.accuracies[row : row + 9]) for row in range(0, len(self.rates), 9)]
        return Table(title, ("rate", *(f"x {digit}" for digit in range(1, 10))), tuple(rows))

    @property
    def numbers(self) -> dict[str, Any]:
        """What a record keeps."""
        chosen = {"rates": self.rates, "accuracies": self.accuracies, "rate": self.rate, "epoch": self.epoch}
        return {
            "top1": self.top1,
            "top5": self.top5,
            **chosen,
            "chosen_on": self.chosen_on,
            "images": self.images,
            "queries": len(self.correct),
        }


def probed(model: Model) -> tuple[int, Pool]:
    """Layers and pool that the paper probes such a model on: ViT-S and Swin on the last 4 [CLS], larger ViTs on [CLS] and mean patch."""
    if not isinstance(model.backbone, Swin) and model.widths[-1] >= SMALL:
        return 1, "cls+mean"
    return min(LAYERS, model.depth), "cls"


def linear(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    options: SweepOptions | None = None,
    *,
    crops: Callable[[Tensor], Batches] | None = None,
    **changes: Any,
) -> LinearReport:
    """Train 45 linear classifiers at once, choose the best, and measure it on the validation images (Table 1).

    With select="held-out" the rates are compared after the last epoch on a part of the training images of every class, and the best
    one trains another classifier on all of them. With "validation", as the official code does it, the best of all rates and epochs on
    the validation images is taken: a number that nothing new confirms.

    Args:
        train: features [N, F] in float32.
        train_labels: whole numbers [N] from 0 on, the places of the classes.
        val: features [M, F].
        val_labels: whole numbers [M], of classes that the training images have.
        options: `changes` are fields of it by name; it is `options.device` that computes.
        crops: training rows -> what each epoch learns from them; default: their features, which stay the same.

    Raises:
        UsageError: rows, lengths or labels that do not fit together, features that are not finite, or none that can be held out.
    """
    options = replace(options or SweepOptions(), **changes)
    check_sides(train, train_labels, val, val_labels)
    device = choose_devices(options.device)[0]
    given = crops or (lambda rows: shuffled(train, train_labels, rows, options.step_images, options.seed))
    shape: dict[str, Any] = {
        "classes": int(train_labels.max()) + 1, "width": train.shape[1], "epochs": options.epochs,
        "step_images": options.step_images, "seed": options.seed, "device": device,
    }  # fmt: skip
    rows = torch.arange(len(train))
    if options.select == "validation":
        accuracies, epoch, head = _best(training(given(rows), RATES, **shape), val, val_labels, 1)
        chosen_on = len(val)
    else:
        kept, held = held_out(train_labels, options.held_out, options.seed)
        accuracies, epoch, head = _best(training(given(kept), RATES, **shape), train[held], train_labels[held], options.epochs)
        chosen_on = len(held)
        *_, head = training(given(rows), head.rates, **shape)
    own = measure(head, val, val_labels).ranks[0]  # [M]
    top1, top5 = (float(top(own, best)) for best in (1, 5))
    return LinearReport(
        RATES, accuracies, options.select, chosen_on, head.rates[0], epoch, top1, top5,
        own == 0, head.weight[0].cpu(), head.bias[0].cpu(), len(train), crops is not None,
    )  # fmt: skip


def _best(trained: Iterable[Classifiers], features: Tensor, labels: Tensor, first: int) -> tuple[tuple[float, ...], int, Classifiers]:
    """Top-1 of every rate in per cent, and the epoch and a copy of the best classifier, from epoch `first` (of 1, 2, ...) on.

    Of equally accurate ones, which are many where few images are looked at, the one with the lowest loss is taken.
    """
    tops = torch.full((len(RATES),), -1.0, dtype=torch.float64)
    best = (-1.0, 0.0)  # accuracy in 0..1, and the loss below 0
    for epoch, heads in enumerate(trained, 1):
        if epoch < first:
            continue
        found = measure(heads, features, labels)
        accuracies = (found.ranks == 0).double().mean(dim=1)  # [R]
        tops = tops.maximum(accuracies)
        scores = list(zip(accuracies.tolist(), (-found.losses.nan_to_num(torch.inf)).tolist(), strict=True))
        if max(scores) > best:
            best, when, chosen = max(scores), epoch, _one(heads, scores.index(max(scores)))
    return tuple(tops.mul(100).tolist()), when, chosen


def _one(heads: Classifiers, place: int) -> Classifiers:
    """A copy of the classifier at `place`."""
    chosen = slice(place, place + 1)
    return Classifiers(heads.rates[chosen], heads.weight[chosen].clone(), heads.bias[chosen].clone())
