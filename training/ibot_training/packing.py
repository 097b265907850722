"""A ViT's block over crops of several sizes in one row of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

PLAIN_TOKENS = 512  # of a crop on a CPU; above, the attention matrices would fill the memory


@dataclass(frozen=True)
class Layout:
    """How the tokens of a row belong together: for each size of crops, (number of crops, tokens of a crop)."""

    groups: tuple[tuple[int, int], ...]

    def first_rows(self, device: torch.device) -> Tensor:
        """Where the [CLS] tokens are in the row: int64 [crops]."""
        starts = [0, *accumulate(crops * tokens for crops, tokens in self.groups)]
        ranges = zip(starts, starts[1:], self.groups, strict=False)
        return torch.cat([torch.arange(start, stop, tokens, device=device) for start, stop, (_, tokens) in ranges])

    def patch_rows(self, patches: Tensor) -> Tensor:
        """Where patches are in the row, given their places among all patches, without [CLS]: int64 [M] -> int64 [M]."""
        rows = torch.zeros_like(patches)
        first_patch = first_crop = 0
        for crops, tokens in self.groups:
            inside = (patches - first_patch).div(tokens - 1, rounding_mode="floor")  # the crop of its group
            in_group = (patches >= first_patch) & (inside < crops)
            rows = torch.where(in_group, patches + first_crop + inside + 1, rows)
            first_patch, first_crop = first_patch + crops * (tokens - 1), first_crop + crops
        return rows

    def spread(self, values: Tensor) -> Tensor:
        """One value a crop [crops] -> one a token [tokens, 1]."""
        parts = values.split([crops for crops, _ in self.groups])
        return torch.cat([part.repeat_interleave(tokens) for part, (_, tokens) in zip(parts, self.groups, strict=True)])[:, None]


class PackedBlock(Block):
    """timm's `Block`, key for key, that also takes packed tokens: linear layers see one row, attention sees each crop alone."""

    def forward(self, x: Tensor, layout: Layout | None = None, scales: Tensor | None = None) -> Tensor:
        """x is [B, N, D], or with a `layout` [tokens, D]; `scales`, [2, crops], are factors of the two branches."""
        if layout is None:
            whole: Tensor = super().forward(x)
            return whole
        y = self._attended(self.norm1(x), layout)
        x = x + (y if scales is None else y * layout.spread(scales[0]))
        y = self.mlp(self.norm2(x))
        answer: Tensor = x + (y if scales is None else y * layout.spread(scales[1]))
        return answer

    def _attended(self, x: Tensor, layout: Layout) -> Tensor:
        attn = self.attn
        packed = attn.qkv(x)  # [tokens, 3 * D]
        parts: Sequence[Tensor] = packed.split([crops * tokens for crops, tokens in layout.groups])
        rows = []
        for part, (crops, tokens) in zip(parts, layout.groups, strict=True):
            qkv = part.view(crops, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, d]
            rows.append(attend(*qkv.unbind()).transpose(1, 2).reshape(crops * tokens, -1))  # [B * N, D]
        answer: Tensor = attn.proj(torch.cat(rows) if len(rows) > 1 else rows[0])
        return answer


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of [B, heads, N, d] each.

    On a CPU the backward of the fused kernel takes longer than three plain products, above all in bfloat16.
    """
    if query.device.type != "cpu" or query.shape[2] > PLAIN_TOKENS:
        return F.scaled_dot_product_attention(query, key, value)
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # [B * heads, N, d]
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[2] ** -0.5)  # [B * heads, N, N]
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(query.shape)
