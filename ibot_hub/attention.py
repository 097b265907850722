"""Attention maps with [CLS] as the query: exact, without any N x N matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import UsageError
from ibot_hub.fit import Fit
from ibot_hub.images import ImageLike, ImageTransform, as_images
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT

if TYPE_CHECKING:
    from ibot_hub.model import Model

ATTENTION = "attention of [CLS]"
COSINE = "cosine of each patch with the image's vector, the mean of its patches: a Swin has no [CLS]"


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """What one image looks like to each attention head."""

    weights: Tensor  # [heads, H, W] float32 on the CPU; of a Swin one map, whose values may be below 0
    fit: Fit  # where these patches lie in the image
    of: str  # what the values are, in words: ATTENTION, or for a Swin COSINE


def attention_maps(model: "Model", image: ImageLike, layer: int = -1, *, transform: ImageTransform | None = None) -> AttentionMaps:
    """The maps of one image, with [CLS] as the query (Fig. 6, 18); of a Swin, which has none, what comes nearest.

    Args:
        model: what `ibot_hub.load` made.
        image: a path, a PIL image or a uint8 array [height, width, 3].
        layer: the block; negative ones count from the last. A Swin's map is that of its last block alone.
        transform: how the image is prepared; default: the model's own.

    Raises:
        UsageError: a layer that does not exist; ImageError: an image that cannot be decoded or fitted.
    """
    transform = transform or model.transform
    (picture,) = as_images(image)
    fit = transform.fit(*picture.size)
    if not isinstance(model.backbone, Swin):
        return AttentionMaps(model.attention(picture, layer, transform=transform)[0].cpu(), fit, ATTENTION)
    if layer not in (-1, model.depth - 1):
        raise UsageError(f"Layer {layer} was asked for; the map of a Swin is made from its last block, so leave the layer out.")
    tokens = model(picture, transform=transform)
    cosines = F.cosine_similarity(tokens.patches.float(), tokens.cls.float()[:, None, None], dim=-1)  # [1, H, W]
    return AttentionMaps(cosines.cpu(), fit, COSINE)


def cls_attention(backbone: ViT | Swin, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """What [CLS] attends to in each of `layers`: the softmax row of [CLS] over the patch columns (Fig. 6, 18).

    Blocks run with the fused kernel; only the one row is computed again, from the queries and keys of the block.

    Args:
        backbone: a ViT.
        images: normalised, [B, 3, height, width].
        layers: indices of blocks; negative ones count from the last.

    Returns:
        One [B, heads, H, W] a layer, in the order asked. A row sums to 1 less the weight of [CLS] on itself.

    Raises:
        UsageError: a layer that does not exist, or a Swin, which has no [CLS] row.
    """
    vit = needs_cls(backbone)
    depth = len(vit.blocks)
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong:
        raise UsageError(f"Layer {wrong[0]} does not exist; this model has {depth} blocks: 0 to {depth - 1}, or -{depth} to -1.")
    wanted = [layer % depth for layer in layers]
    if not wanted:
        return []
    rows: dict[int, Tensor] = {}
    tokens, height, width = vit.embed(images)
    blocks: Any = vit.blocks  # torch types what a module holds as if it might be anything
    for index, block in enumerate(blocks[: max(wanted) + 1]):
        normed = block.norm1(tokens)
        if index in wanted:
            rows[index] = _cls_row(block, normed).unflatten(2, (height, width))
        if index < max(wanted):
            tokens = block.with_attention(tokens, normed)
            del normed  # before the block's largest activations
            tokens = block.with_mlp(tokens)
    return [rows[index] for index in wanted]


def last_block(backbone: ViT | Swin, images: Tensor) -> tuple[Tensor, Tensor]:
    """What [CLS] attends to in the last block [B, heads, H, W], and the patches after it without the final norm [B, H, W, D], in one pass.

    Args:
        backbone: a ViT.
        images: normalised, [B, 3, height, width].

    Raises:
        UsageError: a Swin, which has no [CLS] row.
    """
    vit = needs_cls(backbone)
    tokens, height, width = vit.embed(images)
    tokens = vit.blocks[:-1](tokens)
    last: Any = vit.blocks[-1]
    row = _cls_row(last, last.norm1(tokens))
    patches: Tensor = last(tokens)[:, 1:]
    return row.unflatten(2, (height, width)), patches.unflatten(1, (height, width))


def needs_cls(backbone: ViT | Swin) -> ViT:
    """The backbone, which is a ViT; raises UsageError for a Swin."""
    if isinstance(backbone, Swin):
        raise UsageError("A Swin has no [CLS] token, so it has no attention map of one; take a ViT, such as vit_s16.")
    return backbone


def strongest(weights: npt.NDArray[np.float64], mass: float) -> npt.NDArray[np.bool_]:
    """Where [H, W] weights are among the fewest that hold `mass` of their sum, or equal to one of these (official implementation)."""
    rising = np.sort(weights, axis=None)
    sums = rising.cumsum()
    # the weakest that is needed: all below it hold no more than 1 - mass together
    weakest = np.searchsorted(sums, (1 - mass) * sums[-1], side="right")
    chosen: npt.NDArray[np.bool_] = weights >= rising[min(weakest, len(rising) - 1)]
    return chosen


def _cls_row(block: Block, normed: Tensor) -> Tensor:
    """[B, 1 + N, D] before a block, after its first norm -> [B, heads, N], in float32 for half-precision models too.

    The query is taken through the key weights to the tokens, so that no keys [B, 1 + N, D] are made; the key bias adds the
    same to all scores of a row, which the softmax does not see.
    """
    attn = block.attn
    dim = normed.shape[2]
    weight, bias = attn.qkv.weight, attn.qkv.bias
    query = F.linear(normed[:, 0], weight[:dim], bias[:dim]).unflatten(1, (attn.num_heads, 1, -1))  # [B, heads, 1, d]
    query = (query.float() @ weight[dim : 2 * dim].float().unflatten(0, (attn.num_heads, -1))).squeeze(2)  # [B, heads, D]
    scores = query @ normed.float().transpose(1, 2) * attn.scale  # [B, heads, 1 + N]
    return torch.softmax(scores, dim=-1)[:, :, 1:]
