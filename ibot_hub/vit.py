"""timm's ViT with iBOT's position table, masks and answer."""

from functools import partial
from typing import Self

import torch
from timm.models import vision_transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ibot_hub.tokens import Tokens

PLAIN_TOKENS = 512  # of an image on a CPU; above, the attention matrices would fill the memory


def attend(query: Tensor, key: Tensor, value: Tensor, *, training: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of [B, heads, N, d] each.

    On a CPU three plain products take less than half the time of the fused kernel in bfloat16; in float32 they are slower, but not
    where a backward pass follows (`training`).
    """
    plain = query.device.type == "cpu" and query.shape[2] <= PLAIN_TOKENS and (training or query.dtype == torch.bfloat16)
    if not plain:
        return F.scaled_dot_product_attention(query, key, value)
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))  # [B * heads, N, d]
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[2] ** -0.5)  # [B * heads, N, N]
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(query.shape)


class Block(vision_transformer.Block):
    """timm's `Block`, key for key, whose attention goes through `attend`."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] -> [B, N, D]."""
        x = x + self.drop_path1(self.ls1(self._attended(self.norm1(x))))
        answer: Tensor = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return answer

    def _attended(self, x: Tensor) -> Tensor:
        attn = self.attn
        qkv = attn.qkv(x).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, N, d]
        answer: Tensor = attn.proj(attend(*qkv.unbind()).transpose(1, 2).flatten(2))
        return answer


class ViT(VisionTransformer):
    """A timm `VisionTransformer`, key for key, whose forward answers `Tokens` and takes images of any size.

    Its initial weights are drawn as the official code draws them, but for another `init_std`.

    Args:
        img_size: side in pixels of the square images that the position table was made for.
        patch_size: side of a patch in pixels.
        embed_dim, depth, num_heads, mlp_ratio: shape of the transformer.
        eps: of every LayerNorm; iBOT's is 1e-6.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        block_fn: the class of the blocks.
        init_std: standard deviation of the blocks' initial weights; the official code's is 0.02.
        layer_scale: each branch of a block is weighted, channel by channel, as in DINOv2; iBOT's are not.
    """

    def __init__(
        self, *, img_size: int, patch_size: int, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float = 4.0,
        eps: float = 1e-6, drop_path_rate: float = 0.0, block_fn: type[Block] = Block, init_std: float = 0.02,
        layer_scale: bool = False,
    ) -> None:  # fmt: skip
        norm_layer = partial(nn.LayerNorm, eps=eps)
        super().__init__(
            img_size=img_size, patch_size=patch_size, embed_dim=embed_dim, depth=0, num_heads=num_heads, num_classes=0,
            dynamic_img_size=True, norm_layer=norm_layer, weight_init="skip",
        )  # fmt: skip
        # the blocks are made here, because older timm cannot compute their drop rates on the meta device
        self.blocks = nn.Sequential(
            *(
                block_fn(
                    embed_dim,
                    num_heads,
                    mlp_ratio,
                    qkv_bias=True,
                    init_values=1.0 if layer_scale else None,
                    drop_path=drop_path_rate * index / max(depth - 1, 1),
                    norm_layer=norm_layer,
                )
                for index in range(depth)
            )
        )
        self.patch = patch_size  # pixels from one token to the next
        self.layer_scale = layer_scale
        if not self.pos_embed.is_meta:  # there, drawing nothing takes a twentieth of the time of a load
            self._draw(init_std)

    def _draw(self, init_std: float) -> None:
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> tuple[Tensor, int, int]:
        """The tokens that enter the first block.

        Args:
            images: normalised, [B, 3, height, width]; what does not fill a patch at the right and bottom is cut.
            mask: bool [B, H, W], True where a patch is hidden: `mask_token` [1, D] takes the place of its embedding, before
                [CLS] and positions are added (official implementation, and section 3.1 of the paper).

        Returns:
            tokens [B, 1 + H*W, D], and H, W.
        """
        patches: Tensor = self.patch_embed.proj(images)  # [B, D, H, W]
        height, width = patches.shape[-2:]
        if mask is not None:
            if mask_token is None:
                raise ValueError("a mask needs the student's mask token")
            patches = torch.where(mask[:, None], mask_token.to(patches.dtype)[:, :, None, None], patches)
        tokens = patches.flatten(2).transpose(1, 2)  # [B, H*W, D]
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        pixels_square = images.shape[-2] == images.shape[-1]
        return tokens + positions(self.pos_embed, height, width, unchanged=pixels_square).to(tokens.dtype), height, width

    def forward(self, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tokens:
        """Normalised images [B, 3, height, width] -> final-norm tokens; mask as in `embed`."""
        tokens, height, width = self.embed(x, mask, mask_token)
        for block in self.blocks:
            tokens = block(tokens)
        return self._answer(tokens, height, width)

    def last_layers(self, x: Tensor, count: int) -> list[Tokens]:
        """The outputs of the last `count` blocks, oldest first, each after the final norm (linear probing, Table 1)."""
        tokens, height, width = self.embed(x)
        answers = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index >= len(self.blocks) - count:
                answers.append(self._answer(tokens, height, width))
        return answers

    def _answer(self, tokens: Tensor, height: int, width: int) -> Tokens:
        normed = self.norm(tokens)
        return Tokens(normed[:, 0], normed[:, 1:].unflatten(1, (height, width)))

    @classmethod
    def on_meta(cls, **shape: float) -> Self:
        """The network without memory for its weights, to be given them by `load_state_dict(..., assign=True)`."""
        with torch.device("meta"):
            return cls(**shape)  # type: ignore[arg-type]


def positions(table: Tensor, height: int, width: int, *, unchanged: bool) -> Tensor:
    """The position table [1, 1 + n*n, D] for a grid of height x width patches, as the official code computes it.

    The table stays as it is when the number of patches is its own and the image is square in pixels (`unchanged`). Else it
    is interpolated (bicubic, half-pixel centres, no antialias) with the scale factors (height + 0.1) / n and
    (width + 0.1) / n: given as factors, not as a size, they also set the sampling step, so other libraries' size-based
    tables differ.
    """
    count = table.shape[1] - 1
    if unchanged and height * width == count:
        return table
    side = int(count**0.5)
    grid = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, n, n]
    scale = ((height + 0.1) / side, (width + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
