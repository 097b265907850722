"""Tokens -> the most likely pattern of each, while the logits of all patterns are never there at once."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.head import Head, WeightNormLinear

Of = Literal["patches", "cls"]

TOKENS, PATTERNS = 4096, 1024  # logits at a time: 16 MiB in float32


@dataclass(frozen=True, eq=False)
class Assigned:
    """The pattern of every token."""

    patterns: Tensor  # [...] int64, 0..K-1
    confidences: Tensor  # [...] float32: the logit, a cosine where the last layer's lengths are 1; or the probability


@dataclass(frozen=True, eq=False)
class Assigner:
    """How a head assigns tokens to patterns.

    By the raw logit, as the official implementation does; or, with a centre, by softmax((logit - centre) / temperature), the
    distribution that the teacher gives in training.
    """

    head: Head
    rows: Tensor  # [K, bottleneck_dim], of the last layer
    centre: Tensor | None = None  # [K] float32
    temperature: float = 1.0

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Assigned:
        """[..., D] -> the pattern of each, of equals the first."""
        bottleneck = self.head.bottleneck(tokens.flatten(0, -2))  # [n, bottleneck_dim]
        parts = [self._best(part) for part in bottleneck.split(TOKENS)]
        patterns, confidences = (torch.cat(column).view(tokens.shape[:-1]) for column in zip(*parts, strict=True))
        return Assigned(patterns, confidences)

    @torch.inference_mode()
    def mean_logits(self, means: Tensor) -> Tensor:
        """The mean bottleneck vector [bottleneck_dim] of some tokens -> their mean logits [K] float32: the last layer is linear."""
        return (self.rows.double() @ means.double()).float()

    def _best(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """[n, bottleneck_dim] -> patterns and confidences, [n] each."""
        best = torch.full((len(part),), -torch.inf, device=part.device)
        patterns = torch.zeros(len(part), dtype=torch.int64, device=part.device)
        total = torch.zeros_like(best)  # of exp((logit - best) / temperature)
        for first in range(0, len(self.rows), PATTERNS):
            rows = self.rows[first : first + PATTERNS]
            if self.centre is None:
                logits = (part @ rows.T).float()  # [n, PATTERNS]
            else:  # a difference in the last digit of half precision is one of several per cent in the exponential
                logits = F.linear(part.float(), rows.float(), -self.centre[first : first + PATTERNS])
            value, index = logits.max(dim=-1)
            patterns = torch.where(value > best, index + first, patterns)
            larger = torch.maximum(best, value)  # NaN goes through
            if self.centre is not None:
                total = total * ((best - larger) / self.temperature).exp() + ((logits - larger[:, None]) / self.temperature).exp().sum(-1)
            best = larger
        if self.centre is not None:
            return patterns, 1 / total
        # once more in float32: in half precision so many logits are equal that the ranking would be by the number of the image
        return patterns, (part.float() * self.rows[patterns].float()).sum(dim=-1)


def assigner(head: Head, of: Of, centre: Tensor | None = None, temperature: float = 1.0) -> Assigner:
    """The assigner of patches, or of [CLS]; a DINO head, which knows only [CLS], serves for both (Fig. 16)."""
    layer = _layer(head, of)
    weight = layer.weight_v
    with torch.inference_mode():
        rows = layer(torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)).T.contiguous()
    return Assigner(head, rows, centre.to(weight.device) if centre is not None else None, temperature)


def head_digest(head: Head, of: Of) -> str:
    """sha256 of a last layer in bfloat16, so that a head and its copy in bfloat16 are told to be the same."""
    digest = hashlib.sha256()
    for tensor in (_layer(head, of).weight_g, _layer(head, of).weight_v):
        digest.update(tensor.detach().cpu().bfloat16().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _layer(head: Head, of: Of) -> WeightNormLinear:
    return head.patch_layer if of == "patches" else head.last_layer
