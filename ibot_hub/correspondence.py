"""The best partner, in a second image, of each patch of a first one (Fig. 19)."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.fit import Fit
from ibot_hub.images import ImageLike, ImageTransform, as_images
from ibot_hub.model import Model
from ibot_hub.options import MatchOptions, Rank, Similarity
from ibot_hub.swin import Swin

CHUNK = 2**24  # similarities in memory at a time: 64 MiB

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PartnerMap:
    """The best partner in the second image of every patch of the first."""

    partners: Integers  # [H, W, 2], the (row, column) in the second image
    similarities: Floats  # [H, W] float32
    mutual: Booleans  # [H, W], whether the partner's own best partner is this patch
    first: Fit
    second: Fit


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of patches, the strongest first; points are (x, y) in pixels of the two images as given."""

    first: Floats  # [n, 2] float64, centres of patches
    second: Floats  # [n, 2] float64
    scores: Floats  # [n] float32, what they are ranked by
    similarities: Floats  # [n] float32
    first_patches: Integers  # [n, 2], (row, column)
    second_patches: Integers  # [n, 2]
    rank: Literal["attention", "similarity"]  # what the scores are


def match(
    model: Model,
    first: ImageLike,
    second: ImageLike,
    count: int = MatchOptions.count,
    *,
    mutual: bool = MatchOptions.mutual,
    similarity: Similarity = MatchOptions.similarity,
    rank: Rank = MatchOptions.rank,
    transform: ImageTransform | None = None,
) -> Matches:
    """The `count` strongest of the pairs that each patch of `first` makes with its best partner in `second` (Fig. 19).

    The partner is the patch whose final-norm token has the largest dot product, as in the official script, which lets any
    number of patches share one. The paper ranks by the attention of [CLS] in the last block on the first image, averaged over
    heads (the official script takes a DINO ViT-B/8's).

    Args:
        first, second: a path, a PIL image or uint8 [height, width, 3], of any sizes.
        count: fewer come back where there are fewer pairs.
        mutual: only pairs that are each other's best.
        similarity: "dot", or "cosine", to which the lengths of the tokens do not matter.
        rank: "attention", "similarity", or "auto": attention, but for a Swin, which has no [CLS], similarity.
        transform: how both images are fitted; default the model's own, but with the aspect kept, so that nothing is cropped.

    Raises:
        UsageError: a count below 1, or attention asked of a Swin; ImageError: a file that cannot be decoded.
    """
    MatchOptions(count=count, similarity=similarity, rank=rank)  # which raises
    one, other = as_images([first, second])
    partners = partner_map(model, one, other, similarity=similarity, transform=transform)
    return strongest(model, one, partners, count, rank=rank, transform=transform, among=partners.mutual if mutual else None)


def partner_map(
    model: Model,
    first: ImageLike,
    second: ImageLike,
    *,
    similarity: Similarity = MatchOptions.similarity,
    transform: ImageTransform | None = None,
) -> PartnerMap:
    """The best partner in `second` of every patch of `first`; arguments as in `match`."""
    transform = transform or whole(model)
    images = as_images([first, second])
    tokens = [model(image, transform=transform).patches[0] for image in images]  # [H, W, D] each
    return pair_up(*tokens, *(transform.fit(*image.size) for image in images), similarity=similarity)


def whole(model: Model) -> ImageTransform:
    """How images are fitted to be matched: the model's own size for the short side, nothing cropped."""
    return replace(model.transform, resize=MatchOptions.resize)


@torch.no_grad()
def pair_up(
    first: Tensor, second: Tensor, first_fit: Fit, second_fit: Fit, *, similarity: Similarity = MatchOptions.similarity
) -> PartnerMap:
    """Tokens [H, W, D] and [h, w, D] -> the best partner of each of the first; of equals, the first in reading order.

    Compared in float32, a band of the first image's patches at a time, so that no H*W x h*w matrix is held.
    """
    MatchOptions(similarity=similarity)  # which raises where there is no such choice
    rows, columns = first.flatten(0, 1).float(), second.flatten(0, 1).float()  # [N, D], [M, D]
    if similarity == "cosine":
        rows, columns = F.normalize(rows, dim=1), F.normalize(columns, dim=1)
    best, partners = rows.new_empty(len(rows)), torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    back_best = rows.new_full((len(columns),), -torch.inf)
    back = torch.empty(len(columns), dtype=torch.int64, device=rows.device)
    step = max(1, CHUNK // len(columns))
    for start in range(0, len(rows), step):
        band = rows[start : start + step] @ columns.T  # [step, M]
        best[start : start + step], partners[start : start + step] = band.max(dim=1)
        values, places = band.max(dim=0)
        better = values > back_best
        back_best, back = values.where(better, back_best), (places + start).where(better, back)
    mutual = back[partners] == torch.arange(len(rows), device=rows.device)
    shape = (first_fit.rows, first_fit.columns)
    patches = np.stack(np.divmod(partners.cpu().numpy(), second_fit.columns), axis=-1)  # [N, 2]
    return PartnerMap(
        patches.reshape(*shape, 2), best.cpu().numpy().reshape(shape), mutual.cpu().numpy().reshape(shape), first_fit, second_fit
    )


def strongest(
    model: Model,
    first: Image.Image,
    partners: PartnerMap,
    count: int,
    *,
    rank: Rank = MatchOptions.rank,
    transform: ImageTransform | None = None,
    among: Booleans | None = None,
) -> Matches:
    """The `count` pairs of `partners` that rank highest; `among`, bool [H, W], tells which may be taken. Arguments as in `match`."""
    by: Literal["attention", "similarity"] = ("similarity" if isinstance(model.backbone, Swin) else "attention") if rank == "auto" else rank
    if by == "attention":
        with torch.no_grad():
            scores = model.attention(first, transform=transform or whole(model))[0].mean(dim=0).float().cpu().numpy()  # [H, W]
    else:
        scores = partners.similarities
    taken = np.ones_like(partners.mutual) if among is None else among
    order = np.argsort(-scores[taken], kind="stable")[:count]
    patches = np.argwhere(taken)[order]  # [n, 2]
    others = partners.partners[taken][order]
    return Matches(
        partners.first.centres()[taken][order],
        partners.second.centres()[others[:, 0], others[:, 1]],
        scores[taken][order],
        partners.similarities[taken][order],
        patches,
        others,
        by,
    )
