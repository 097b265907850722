"""timm's Swin with iBOT's window rule, masks and answer."""

import math
from functools import lru_cache, partial

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from ibot_hub.tokens import Tokens

NATIVE_SIZE = 224  # pixels; the official code fixes windows and shifts for this size, whatever size it is fed
MASK_CELL = 32  # pixels; a hidden cell is one token of the last stage


class Swin(SwinTransformer):
    """A timm `SwinTransformer`, key for key, whose forward answers `Tokens` and takes images of any size.

    Args:
        patch_size: side in pixels of a patch of the first stage.
        window_size: side of a window in tokens; stages whose map at 224 px is no larger get one window and no shift.
        embed_dim, depths, num_heads: shape of the stages.
        eps: of every LayerNorm; iBOT's is 1e-6 (timm's 1e-5).
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
    """

    def __init__(
        self, *, patch_size: int, window_size: int, embed_dim: int, depths: tuple[int, ...], num_heads: tuple[int, ...],
        eps: float = 1e-6, drop_path_rate: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(
            img_size=NATIVE_SIZE, patch_size=patch_size, window_size=window_size, embed_dim=embed_dim, depths=depths, num_heads=num_heads,
            num_classes=0, strict_img_size=False, norm_layer=partial(nn.LayerNorm, eps=eps), drop_path_rate=drop_path_rate,
        )  # fmt: skip
        self.patch = patch_size * 2 ** (len(depths) - 1)  # pixels from one token of the answer to the next

    def embed(self, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """The map [B, h, w, C] that enters the first stage.

        Args:
            images: normalised, [B, 3, height, width]; what does not fill a patch at the right and bottom is cut.
            mask: bool [B, H, W] in cells of 32 px, True where hidden: `mask_token` [1, C] takes the place of the normed
                patch embedding.
        """
        x: Tensor = self.patch_embed.norm(self.patch_embed.proj(images).permute(0, 2, 3, 1))  # [B, h, w, C]
        if mask is None:
            return x
        if mask_token is None:
            raise ValueError("a mask needs the student's mask token")
        repeats = MASK_CELL // self.patch_embed.patch_size[0]
        fine = mask.repeat_interleave(repeats, 1).repeat_interleave(repeats, 2)[:, : x.shape[1], : x.shape[2]]
        return torch.where(fine[..., None], mask_token.to(x.dtype), x)

    def forward(self, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tokens:
        """Normalised images [B, 3, height, width] -> final-norm tokens of the last stage; mask as in `embed`."""
        x = self.embed(x, mask, mask_token)
        for stage in self.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = windowed(block, x)
        return _answer(self.norm(x))

    def last_layers(self, x: Tensor, count: int) -> list[Tokens]:
        """The outputs of the last `count` blocks, oldest first; only those of the last stage pass the final norm."""
        x = self.embed(x)
        total = sum(len(stage.blocks) for stage in self.layers)
        answers: list[Tokens] = []
        index = 0
        for stage in self.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = windowed(block, x)
                if index >= total - count:
                    answers.append(_answer(self.norm(x) if stage is self.layers[-1] else x))
                index += 1
        return answers


def _answer(x: Tensor) -> Tokens:
    return Tokens(x.mean(dim=(1, 2)), x)


def windowed(block: SwinTransformerBlock, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """One block by the official rule: padded to whole windows after norm1, then shifted (timm shifts first).

    x is [B, H, W, C]. The zeros of the padding take part in attention, as they do in the official code. `scales`, [2, B],
    are factors of the two branches, in place of the block's own stochastic depth.
    """
    _, height, width, channels = x.shape
    window, shift = block.window_size[0], block.shift_size[0]
    padded_height, padded_width = (math.ceil(side / window) * window for side in (height, width))
    y = F.pad(block.norm1(x), (0, 0, 0, padded_width - width, 0, padded_height - height))
    mask = None
    if shift:
        y = torch.roll(y, (-shift, -shift), (1, 2))
        mask = _shift_mask(padded_height, padded_width, window, shift).to(y)
    windows = window_partition(y, (window, window)).flatten(1, 2)  # [B * windows, window * window, C]
    windows = block.attn(windows, mask).view(-1, window, window, channels)
    y = window_reverse(windows, (window, window), padded_height, padded_width)
    if shift:
        y = torch.roll(y, (shift, shift), (1, 2))
    y = y[:, :height, :width]
    x = x + (block.drop_path1(y) if scales is None else y * scales[0].view(-1, 1, 1, 1))
    y = block.mlp(block.norm2(x))
    answer: Tensor = x + (block.drop_path2(y) if scales is None else y * scales[1].view(-1, 1, 1, 1))
    return answer


@lru_cache(maxsize=64)
def _shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """-100 between tokens that only the cyclic shift made neighbours: [windows, window * window, window * window]."""
    labels = torch.zeros(1, height, width, 1)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for row, rows in enumerate(bands):
        for column, columns in enumerate(bands):
            labels[:, rows, columns] = 3 * row + column
    regions: Tensor = window_partition(labels, (window, window)).flatten(1)  # [windows, window * window]
    return (regions[:, None] != regions[:, :, None]).float() * -100.0
