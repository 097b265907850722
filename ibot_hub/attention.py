"""Attention maps with [CLS] as the query: exact, without any N x N matrix."""

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import UsageError
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT


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
    if isinstance(backbone, Swin):
        raise UsageError("A Swin has no [CLS] token, so it has no attention map of one; take a ViT, such as vit_s16.")
    depth = len(backbone.blocks)
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong:
        raise UsageError(f"Layer {wrong[0]} does not exist; this model has {depth} blocks: 0 to {depth - 1}, or -{depth} to -1.")
    wanted = [layer % depth for layer in layers]
    if not wanted:
        return []
    rows: dict[int, Tensor] = {}
    tokens, height, width = backbone.embed(images)
    for index, block in enumerate(backbone.blocks[: max(wanted) + 1]):
        if index in wanted:
            rows[index] = _cls_row(block, tokens).unflatten(2, (height, width))
        if index < max(wanted):
            tokens = block(tokens)
    return [rows[index] for index in wanted]


def _cls_row(block: Block, tokens: Tensor) -> Tensor:
    """[B, 1 + N, D] before a block -> [B, heads, N], in float32 for half-precision models too.

    The query is taken through the key weights to the tokens, so that no keys [B, 1 + N, D] are made; the key bias adds the
    same to all scores of a row, which the softmax does not see.
    """
    attn = block.attn
    dim = tokens.shape[2]
    normed = block.norm1(tokens)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    query = F.linear(normed[:, 0], weight[:dim], bias[:dim]).unflatten(1, (attn.num_heads, 1, -1))  # [B, heads, 1, d]
    query = (query.float() @ weight[dim : 2 * dim].float().unflatten(0, (attn.num_heads, -1))).squeeze(2)  # [B, heads, D]
    scores = query @ normed.float().transpose(1, 2) * attn.scale  # [B, heads, 1 + N]
    return torch.softmax(scores, dim=-1)[:, :, 1:]
