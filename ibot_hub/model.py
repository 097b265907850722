"""A model: backbone, optional head, how its images are prepared, and its card."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibot_hub.attention import cls_attention
from ibot_hub.backbones import Backbone
from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.head import Head
from ibot_hub.images import ImageLike, ImageTransform, as_images
from ibot_hub.swin import Swin
from ibot_hub.tokens import Tokens


@dataclass(frozen=True)
class Card:
    """What there is to say of a loaded model in words."""

    name: str  # as it was asked for
    arch: str  # "ViT-S/16"
    network: str | None  # "teacher", "student"; None where the container does not say
    verified: bool | None = None  # digest: True known and equal, False only recorded at first use, None not from the catalogue
    licence: str = ""

    def in_words(self) -> str:
        """Architecture, network, and whether the weights are of unknown origin."""
        network = f"{self.network} network" if self.network else "network not stated"
        return f"{self.arch}, {network}" + (", unverified" if self.verified is False else "")


@dataclass(frozen=True, eq=False)
class Patterns:
    """The most likely pattern of every patch, by raw logits (Fig. 4; official implementation)."""

    ids: Tensor  # [B, H, W] int64, 0..K-1
    confidences: Tensor  # [B, H, W] float32, the logit of that pattern: a cosine where the last layer's lengths are 1


class Model(nn.Module):
    """Features of images by one network; `ibot_hub.load` makes it.

    `images` is everywhere a path, a PIL image, an array of uint8 [height, width, 3], a list of these, or a normalised float
    tensor [B, 3, height, width]. Gradients flow through a tensor (fine-tuning); images are run without.

    Attributes:
        backbone: the network; its state dict is timm's, key for key.
        head: the projection head (online tokenizer), or None.
        mask_token: [1, D] of a student, or None.
        transform: PIL image -> normalised tensor [3, H, W], for one's own DataLoader; `dataclasses.replace(model.transform,
            size=448)` makes another, which every call takes as `transform=`.
        card: name, architecture, network.
    """

    def __init__(self, backbone: Backbone, head: Head | None, mask_token: Tensor | None, transform: ImageTransform, card: Card) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.mask_token = nn.Parameter(mask_token) if mask_token is not None else None
        self.transform = transform
        self.card = card

    def forward(self, images: ImageLike | Sequence[ImageLike] | Tensor, *, transform: ImageTransform | None = None) -> Tokens:
        """Final-norm tokens: `cls` [B, D] and `patches` [B, H, W, D]."""
        tensor, wants_gradient = self._prepare(images, transform)
        with torch.set_grad_enabled(wants_gradient):
            answer: Tokens = self.backbone(tensor)
        return answer

    def last_layers(
        self, images: ImageLike | Sequence[ImageLike] | Tensor, count: int = 4, *, transform: ImageTransform | None = None
    ) -> list[Tokens]:
        """Tokens after each of the last `count` blocks, oldest first, each after the final norm (linear probing).

        Of a Swin only the blocks of the last stage pass the norm, and widths and grids differ from stage to stage.
        """
        if not 1 <= count <= self.depth:
            raise UsageError(f"{count} layers were asked for; this model has {self.depth} blocks.")
        tensor, wants_gradient = self._prepare(images, transform)
        with torch.set_grad_enabled(wants_gradient):
            return self.backbone.last_layers(tensor, count)

    def attention(
        self, images: ImageLike | Sequence[ImageLike] | Tensor, layer: int = -1, *, transform: ImageTransform | None = None
    ) -> Tensor:
        """What [CLS] attends to in one block: [B, heads, H, W], exact; see `ibot_hub.attention.cls_attention` for several."""
        tensor, wants_gradient = self._prepare(images, transform)
        with torch.set_grad_enabled(wants_gradient):
            return cls_attention(self.backbone, tensor, (layer,))[0]

    def pattern_ids(self, images: ImageLike | Sequence[ImageLike] | Tensor, *, transform: ImageTransform | None = None) -> Patterns:
        """The pattern that the head finds most likely for each patch; raises WeightsError where the model has no head."""
        if self.head is None:
            raise WeightsError(f"{self.card.name} was loaded without its projection head; load it with head=True.")
        tensor, _ = self._prepare(images, transform)
        with torch.no_grad():
            patches = self.backbone(tensor).patches  # [B, H, W, D]
            # one image at a time: the logits of an image, [H, W, K], are far larger than its tokens
            best = [self.head.patch_logits(image).float().max(dim=-1) for image in patches]
        return Patterns(torch.stack([b.indices for b in best]), torch.stack([b.values for b in best]))

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of the tokens that each block gives."""
        if isinstance(self.backbone, Swin):
            return tuple(block.dim for stage in self.backbone.layers for block in stage.blocks)
        return (self.backbone.embed_dim,) * len(self.backbone.blocks)

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.widths)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def __repr__(self) -> str:
        head = "with head" if self.head is not None else "without head"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Model({self.card.name}: {self.card.in_words()}, {head}, {dtype} on {self.device})"

    def _prepare(self, images: ImageLike | Sequence[ImageLike] | Tensor, transform: ImageTransform | None) -> tuple[Tensor, bool]:
        """A batch on the model's device in its dtype, and whether gradients are wanted."""
        if isinstance(images, Tensor):
            if transform is not None:
                raise UsageError("A tensor is taken as it is; `transform` prepares images.")
            if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
                shape, dtype = tuple(images.shape), str(images.dtype).removeprefix("torch.")
                raise UsageError(
                    f"A tensor must be normalised floats [B, 3, height, width]; this one is {dtype} {shape}. "
                    "Give arrays of uint8 [height, width, 3] for images that are not prepared."
                )
            if min(images.shape[2:]) < self.transform.patch:
                raise UsageError(f"Images of {images.shape[2]} x {images.shape[3]} pixels hold no patch of {self.transform.patch}.")
            return images.to(self.device, self.dtype), torch.is_grad_enabled()
        prepared = [(transform or self.transform)(image) for image in as_images(images)]
        shapes: Sequence[torch.Size] = sorted({tensor.shape for tensor in prepared})
        if len(shapes) > 1:
            sides = " and ".join(f"{shape[2]} x {shape[1]}" for shape in shapes[:2])
            raise UsageError(f"The images of one call must come out in one shape, not {sides}; give them one by one, or crop or squash.")
        return torch.stack(prepared).to(self.device, self.dtype), False
