"""How many classes a score puts before the true one."""

import torch
from torch import Tensor


def true_ranks(scores: Tensor, truth: Tensor) -> Tensor:
    """Scores [M, *, C] and the places of the true classes [M] -> int64 [M, *]: 0 is right, below 5 is among the best five.

    Of equal scores the class that stands first comes first.
    """
    places = truth.view(-1, *[1] * (scores.ndim - 1))  # [M, 1, ..., 1]
    own = scores.gather(-1, places.expand(*scores.shape[:-1], 1))  # [M, *, 1]
    earlier = torch.arange(scores.shape[-1], device=scores.device) < places
    return ((scores > own) | ((scores == own) & earlier)).sum(dim=-1)


def top(ranks: Tensor, best: int = 1) -> Tensor:
    """Per cent of the ranks [*, M] that are among the best: float64 [*]."""
    return (ranks < best).double().mean(dim=-1).mul(100)
