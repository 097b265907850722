"""A ViT's block over crops of several sizes in one row of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ibot_hub.vit import Block, attend


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
    """A ViT's `Block` that also takes packed tokens: linear layers see one row, attention sees each crop alone."""

    def forward(self, x: Tensor, layout: Layout | None = None, scales: Tensor | None = None) -> Tensor:
        """x is [B, N, D], or with a `layout` [tokens, D]; `scales`, [2, crops], are factors of the two branches."""
        if layout is None:
            whole: Tensor = super().forward(x)
            return whole
        y = self._attended_apart(self.norm1(x), layout)
        x = x + (y if scales is None else y * layout.spread(scales[0]))
        y = self.mlp(self.norm2(x))
        answer: Tensor = x + (y if scales is None else y * layout.spread(scales[1]))
        return answer

    def _attended_apart(self, x: Tensor, layout: Layout) -> Tensor:
        attn = self.attn
        packed = attn.qkv(x)  # [tokens, 3 * D]
        parts: Sequence[Tensor] = packed.split([crops * tokens for crops, tokens in layout.groups])
        rows = []
        for part, (crops, tokens) in zip(parts, layout.groups, strict=True):
            qkv = part.view(crops, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, d]
            rows.append(attend(*qkv.unbind(), training=True).transpose(1, 2).reshape(crops * tokens, -1))  # [B * N, D]
        answer: Tensor = attn.proj(torch.cat(rows) if len(rows) > 1 else rows[0])
        return answer
