"""The projection head: [CLS] and patches -> logits over the patterns (the online tokenizer)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ibot_hub.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Logits:
    """What a head answers to `Tokens`."""

    cls: Tensor  # [B, K]
    patches: Tensor  # [B, H, W, K], K of the patches' own layer where the head is not shared


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose row k is weight_g[k] * weight_v[k] / |weight_v[k]| (legacy weight norm)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1))
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight_v, a=5**0.5)  # nn.Linear's own default, as in the official head

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1, eps=0.0))


class Head(nn.Module):
    """Three linear layers with GELU, L2 normalisation, and a weight-normed layer over the patterns (paper, appendix C).

    Args:
        in_dim: D of the tokens.
        patterns: K, the width for [CLS].
        patch_patterns: K of a separate layer for the patches; None where one layer is shared (iBOT's default, Table 17).
            A DINO head, which knows only [CLS], is a shared one: its layer is used on patches as in Fig. 16.
        hidden_dim, bottleneck_dim: widths of the multilayer perceptron.
    """

    def __init__(
        self, in_dim: int, patterns: int, patch_patterns: int | None = None, hidden_dim: int = 2048, bottleneck_dim: int = 256
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, bottleneck_dim)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, patterns)
        self.last_layer2 = WeightNormLinear(bottleneck_dim, patch_patterns) if patch_patterns else None

    @property
    def patch_layer(self) -> WeightNormLinear:
        """The last layer of the patches: their own, or that of [CLS] where it is shared."""
        return self.last_layer if self.last_layer2 is None else self.last_layer2

    def bottleneck(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., bottleneck_dim], of length 1."""
        return F.normalize(self.mlp(x), dim=-1)

    def cls_logits(self, x: Tensor) -> Tensor:
        """[CLS] tokens [..., D] -> logits [..., K]."""
        logits: Tensor = self.last_layer(self.bottleneck(x))
        return logits

    def patch_logits(self, x: Tensor) -> Tensor:
        """Patch tokens [..., D] -> logits [..., K]."""
        logits: Tensor = self.patch_layer(self.bottleneck(x))
        return logits

    def forward(self, tokens: Tokens) -> Logits:
        return Logits(self.cls_logits(tokens.cls), self.patch_logits(tokens.patches))


def head_like(tensors: Mapping[str, Tensor]) -> Head:
    """A head without memory, of the shape of these tensors; give it them by a strict `load_state_dict(assign=True)`.

    Raises:
        KeyError: a tensor that tells the shape is missing.
    """
    hidden_dim, in_dim = tensors["mlp.0.weight"].shape
    patterns, bottleneck_dim = tensors["last_layer.weight_v"].shape
    own = tensors.get("last_layer2.weight_v")
    with torch.device("meta"):
        return Head(in_dim, patterns, len(own) if own is not None else None, hidden_dim, bottleneck_dim)
