"""Parameter groups, AdamW, clipping, and schedules that one indexes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ibot_training.recipe import Loss, Masks, Optimiser

Schedule = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedules:
    """Numbers of every step [steps] and temperatures of every epoch [epochs]."""

    lr: Schedule
    weight_decay: Schedule
    momentum: Schedule  # of the teacher
    cls_temperature: Schedule  # of the teacher
    patch_temperature: Schedule


def schedules(optimiser: Optimiser, loss: Loss, masks: Masks, steps_per_epoch: int) -> Schedules:
    """All schedules of a run (official implementation; paper, appendix A)."""
    steps = optimiser.epochs * steps_per_epoch
    warmup = min(round(optimiser.warmup_epochs * steps_per_epoch), steps)
    peak = optimiser.lr * optimiser.batch_size / 256
    start, ramp = loss.warmup_temperature, loss.warmup_epochs
    # patches stay at their first temperature as long as none is hidden
    delay = masks.start_epoch
    return Schedules(
        cosine(peak, optimiser.min_lr, steps, warmup),
        cosine(optimiser.weight_decay, optimiser.weight_decay_end, steps),
        cosine(optimiser.momentum, optimiser.momentum_end, steps),
        ramped(start, loss.cls_temperature, optimiser.epochs, ramp),
        np.concatenate([np.full(delay, start), ramped(start, loss.patch_temperature, optimiser.epochs, ramp)])[: optimiser.epochs],
    )


def cosine(base: float, final: float, steps: int, warmup: int = 0) -> Schedule:
    """`warmup` numbers from 0 to `base`, both included, then half a cosine towards `final`, which is never quite reached."""
    rest = np.arange(steps - warmup)
    falling = final + 0.5 * (base - final) * (1 + np.cos(math.pi * rest / max(len(rest), 1)))
    return np.concatenate([np.linspace(0, base, warmup), falling])


def ramped(start: float, final: float, epochs: int, ramp: int) -> Schedule:
    """`ramp` numbers from `start` to `final`, both included, then `final`; cut to `epochs`."""
    return np.concatenate([np.linspace(start, final, ramp), np.full(max(epochs - ramp, 0), final)])[:epochs]


def build_optimiser(module: nn.Module) -> torch.optim.AdamW:
    """AdamW over what is trained: group 0 decays; group 1, biases and vectors, does not. Rates are set at each step."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if name.endswith(".bias") or parameter.ndim == 1]
    decayed = [parameter for name, parameter in trained if not (name.endswith(".bias") or parameter.ndim == 1)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_rates(optimiser: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """The learning rate of all groups, and the weight decay of those that decay."""
    for index, group in enumerate(optimiser.param_groups):
        group["lr"] = lr
        if index == 0:
            group["weight_decay"] = weight_decay


def clip_gradients(gradients: Sequence[Tensor], limit: float, *, each: bool) -> None:
    """Shrink gradients to the norm `limit`: `each` tensor by itself (official), or all by their common norm."""
    if not gradients:
        return
    own = list(gradients)
    norms = list(torch._foreach_norm(own))
    if not each:
        norms = [torch.linalg.vector_norm(torch.stack(norms))] * len(own)
    torch._foreach_mul_(own, [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms])


def follow(teacher: Iterable[Tensor], student: Iterable[Tensor], momentum: float) -> None:
    """The teacher becomes momentum * teacher + (1 - momentum) * student, in place."""
    slow, fast = list(teacher), list(student)
    torch._foreach_mul_(slow, momentum)
    torch._foreach_add_(slow, fast, alpha=1 - momentum)


def pairs(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that both have by name: the mask token and a layer of the student alone stay out."""
    names = [name for name in teacher if name in student]
    return [teacher[name] for name in names], [student[name] for name in names]
