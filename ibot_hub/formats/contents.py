"""A model -> the tensors and the origin it was made of, on the CPU, as every format takes them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ibot_hub.model import Model
from ibot_hub.origin import Origin
from ibot_hub.swin import Swin
from ibot_hub.weights import Weights


def contents(model: Model, container: str) -> Weights:
    """What `weights.read` would give for a file of this model, in the model's own dtype; `container` is that file's."""
    head, mask_token = model.head, model.mask_token
    backbone: Any = model.backbone
    heads = None if isinstance(backbone, Swin) else backbone.blocks[0].attn.num_heads
    prepared = model.transform
    origin = Origin(model.card.network, container, heads, backbone.norm.eps, prepared.mean, prepared.std, prepared.resize)
    return Weights(
        _apart(backbone.state_dict()),
        _apart(head.state_dict()) if head is not None else None,
        mask_token.detach().cpu() if mask_token is not None else None,
        origin,
    )


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
