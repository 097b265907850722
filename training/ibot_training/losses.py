"""Self-distillation of [CLS] across views, of hidden patches within a view, towards a centred teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor


def targets(logits: Tensor, centre: Tensor | None, temperature: float, *, hard: bool = False) -> Tensor:
    """The teacher's probabilities: float32 of the shape of its logits [..., K].

    Args:
        centre: [K], taken off the logits; None where they are not centred.
        temperature: sharpens before the softmax.
        hard: all on the most likely pattern (Table 18).
    """
    logits = logits.float() if centre is None else logits.float() - centre
    if hard:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.softmax(logits / temperature, dim=-1)


def cls_share(student: Tensor, teacher: Tensor, temperature: float, *, views: int, same: bool) -> Tensor:
    """What some crops add to the [CLS] loss: the mean cross-entropy over all pairs of a teacher's global crop and another crop of the
    student (paper, equation 1).

    Args:
        student: logits [v, B, K] of the teacher's own crops (v = G), or of others.
        teacher: probabilities [G, B, K].
        temperature: of the student.
        views: how many crops of an image the student sees in all.
        same: whether these are the teacher's own crops, each of which is no pair with itself.
    """
    logits = student.float() / temperature
    together = teacher.sum(0)  # [B, K]
    # -sum(p log softmax(s)) = logsumexp(s) sum(p) - p s, and crops that are no teacher's share one p: no log-softmax is kept
    products = ((together - teacher) * logits).sum() if same else (together * logits.sum(0)).sum()
    normalisers = (len(teacher) - same) * torch.logsumexp(logits, dim=-1).sum()
    pairs = max(len(teacher) * (views - 1), 1)  # a single crop has none, and may be trained by its patches alone
    return (normalisers - products) / (pairs * student.shape[1])


def patch_loss(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Weighted sum of the cross-entropies of hidden patches (paper, equation 2).

    Args:
        student: logits [M, K]; teacher: probabilities [M, K]; weights: [M], see `patch_weights`.
    """
    logits = student.float() / temperature
    entropies = torch.logsumexp(logits, dim=-1) - (teacher * logits).sum(-1)  # probabilities sum to 1
    return (weights * entropies).sum()


def patch_weights(masks: Sequence[Tensor]) -> Tensor:
    """The weight of each hidden patch: bool [B_g, H_g, W_g] for each size of crops -> float32 [M] in the order of the patches.

    The mean over the hidden patches of a crop, then over all crops: those without any count as 0 (official implementation).
    """
    hidden = torch.cat([mask.flatten(1).sum(1) for mask in masks])  # [crops]
    return (1.0 / hidden.clamp(min=1) / len(hidden)).repeat_interleave(hidden)


def moved_centre(centre: Tensor, mean: Tensor, momentum: float) -> Tensor:
    """The centre [K] after a step whose teacher logits have this mean [K]."""
    return centre * momentum + mean * (1 - momentum)
