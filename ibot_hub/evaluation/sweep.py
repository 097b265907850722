"""Linear classifiers of many learning rates, trained at once on the same batches."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ibot_hub.evaluation.ranks import true_ranks

RATES = tuple(float(f"{digit}e{power}") for power in range(-4, 1) for digit in range(1, 10))  # for steps of 256 images
RATED_IMAGES = 256  # of a step that a rate is for; it grows with the step
MOMENTUM = 0.9
SPREAD = 0.01  # standard deviation of the initial weights
LOGITS = 2**24  # in memory at a time where classifiers are measured

Batch = tuple[Tensor, Tensor]  # features [B, F], labels [B]
Batches = Callable[[int], Iterable[Batch]]  # the number of an epoch, from 0 -> its steps


@dataclass(frozen=True, eq=False)
class Classifiers:
    """One linear classifier a learning rate."""

    rates: tuple[float, ...]  # R, for steps of 256 images
    weight: Tensor  # [R, C, F] float32
    bias: Tensor  # [R, C]

    def logits(self, features: Tensor) -> Tensor:
        """[B, F] of any device -> [B, R, C], through one product: the features are the same for all."""
        flat = F.linear(features.to(self.weight), self.weight.flatten(0, 1), self.bias.flatten())
        return flat.view(-1, *self.bias.shape)


def training(
    batches: Batches, rates: Sequence[float], *, classes: int, width: int, epochs: int, step_images: int, seed: int, device: torch.device
) -> Iterator[Classifiers]:
    """Train a classifier for each rate and give them all after each epoch; the tensors are the same ones, and go on changing.

    As officially: SGD with momentum 0.9 and no weight decay, the rate times `step_images` / 256, down to 0 on a cosine with a
    step an epoch, weights from N(0, 0.01), biases 0. All rates begin with the same weights, so that what one rate gives does
    not hang on the others. There is one optimiser: SGD with momentum is linear in its gradients, so that a loss times a rate
    is a step times that rate, and every rate has its own slice of the parameters.

    Args:
        batches: what each epoch learns from; labels are from 0 to `classes` - 1.
        width: F, of the features.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(classes, width, generator=generator).mul_(SPREAD)
    weight = first.to(device).repeat(len(rates), 1, 1).requires_grad_()  # [R, C, F]
    bias = torch.zeros(len(rates), classes, device=device, requires_grad=True)
    factors = torch.tensor(rates, device=device) * (step_images / RATED_IMAGES)
    optimiser = torch.optim.SGD([weight, bias], lr=1.0, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    heads = Classifiers(tuple(rates), weight.detach(), bias.detach())
    trained = Classifiers(heads.rates, weight, bias)
    for number in tqdm(range(epochs), unit="epoch", desc=f"training {len(rates)} classifiers", file=sys.stderr, disable=None):
        for features, labels in batches(number):
            losses = _losses(trained.logits(features), labels.to(device))
            optimiser.zero_grad()
            (losses * factors).sum().backward()
            optimiser.step()
        schedule.step()
        yield heads


def shuffled(features: Tensor, labels: Tensor, rows: Tensor, step_images: int, seed: int) -> Batches:
    """Steps over `rows` of features [N, F], in another order each epoch; the last one may be smaller."""

    def epoch(number: int) -> Iterator[Batch]:
        for step in order_of(rows, seed, number).split(step_images):
            yield features[step], labels[step]

    return epoch


def order_of(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """The rows in the random order of an epoch."""
    return rows[torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(rows)))]


@dataclass(frozen=True, eq=False)
class Measured:
    """How right each classifier is."""

    ranks: Tensor  # int64 [R, M]: how many classes come before the true one; 0 is right, below 5 is among the best five
    losses: Tensor  # float64 [R], mean cross-entropy


@torch.no_grad()
def measure(heads: Classifiers, features: Tensor, labels: Tensor) -> Measured:
    """Ranks and losses of features [M, F] with labels [M], on the CPU.

    Of equal logits the lower label comes first. A classifier that diverged, so that its logits are not finite, is wrong.
    """
    found, losses = [], torch.zeros(len(heads.rates), dtype=torch.float64)
    for part, truth in zip(*(rows.split(max(1, LOGITS // heads.bias.numel())) for rows in (features, labels)), strict=True):
        logits = heads.logits(part)  # [m, R, C]
        places = truth.to(logits.device)
        losses += _losses(logits, places).cpu().double() * len(part) / len(labels)
        found.append(true_ranks(logits, places).where(logits.isfinite().all(dim=2), logits.shape[2]).T.cpu())
    return Measured(torch.cat(found, dim=1), losses)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, R, C] -> the mean loss of each rate [R]."""
    images, count, _ = logits.shape
    each = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(count), reduction="none")
    return each.view(images, count).mean(dim=0)
