"""How far the tokens of another implementation are from ours, for the same normalised tensor."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ibot_hub.backbones import Backbone
from ibot_hub.model import Model
from ibot_hub.tokens import Tokens

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]


def noise(model: Model, count: int = 2) -> Tensor:
    """The tensor that is compared: `count` images of seeded noise at the model's native size, float32 [count, 3, size, size]."""
    size = model.transform.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def for_comparison(model: Model) -> Backbone:
    """The backbone in float32 on the CPU, in evaluation: itself where it is so, else a copy."""
    backbone = model.backbone
    if backbone.training or (model.device.type, model.dtype) != ("cpu", torch.float32):
        backbone = copy.deepcopy(backbone).to("cpu", torch.float32).eval()
    return backbone


@torch.no_grad()
def largest_difference(model: Model, answer: Answer, count: int = 2) -> float:
    """The largest absolute difference of a number of the final-norm tokens, in float32 on the CPU, the model in evaluation.

    Args:
        answer: the other implementation: images [B, 3, size, size] -> [CLS] [B, D] and patches [B, H * W, D].
        count: images compared.
    """
    images = noise(model, count)
    ours: Tokens = for_comparison(model)(images)
    pairs = zip((ours.cls, ours.patches.flatten(1, 2)), answer(images), strict=True)
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)
