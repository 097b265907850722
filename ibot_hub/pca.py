"""The first three principal components of patch features as colours, joint over several images."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.fit import Fit
from ibot_hub.images import ImageLike, ImageTransform, as_images
from ibot_hub.model import Model
from ibot_hub.options import ComponentsOptions
from ibot_hub.swin import Swin

ROWS = 28  # of patches along the short side, where no size is asked for: 448 pixels with patches of 16
MAX_BYTES = 4 << 30  # of kept features; 2.4 MB an image of 448 x 448 by a ViT-B/16
NOISE = 1e-12  # of the mean square of the features: less variance than this is the rounding of float32
TAIL = 0.01  # of the foreground's patches below the darkest and above the brightest value of a colour


@dataclass(frozen=True, eq=False)
class Basis:
    """The directions in which patches vary most; one that does not exist (too few patches, all of them alike) is 0."""

    mean: Tensor  # [D] float64
    axes: Tensor  # [3, D] float64, of length 1 and at right angles, the largest entry of each positive
    explained: Tensor  # [3] float64, share of the variance, 0..1

    def project(self, patches: Tensor) -> Tensor:
        """[..., D] -> [..., 3] float64."""
        return (patches.double().cpu() - self.mean) @ self.axes.T


@dataclass(frozen=True, eq=False)
class Split:
    """Foreground and background: two sides of a threshold along one direction, a patch taken less the mean of its image."""

    axis: Tensor  # [D] float64, towards the foreground
    threshold: float

    def foreground(self, patches: Tensor) -> Tensor:
        """[H, W, D] of one image -> bool [H, W]."""
        return self.along(patches) > self.threshold

    def along(self, patches: Tensor) -> Tensor:
        """[H, W, D] of one image -> float64 [H, W]."""
        return (patches.double() - patches.double().mean((0, 1))) @ self.axis


@dataclass(frozen=True, eq=False)
class ComponentMap:
    """The components of one image's patches."""

    projections: Tensor  # [H, W, 3] float32
    foreground: Tensor  # [H, W] bool
    colours: Tensor  # [H, W, 3] uint8: red is the first component, green the second, blue the third
    fit: Fit  # where the patches lie in the image


@dataclass(frozen=True, eq=False)
class Components:
    """Components of several images in one frame, so that the same part has the same colour in each."""

    maps: tuple[ComponentMap, ...]  # one an image, in order
    basis: Basis  # of the foreground's patches of all images: what is coloured
    low: Tensor  # [3] float64: the projections that are drawn darkest
    high: Tensor  # [3] float64: and brightest
    split: Split | None  # what tells the foreground; None where every patch is coloured
    transform: ImageTransform

    def project(self, model: Model, images: ImageLike | Iterable[ImageLike]) -> tuple[ComponentMap, ...]:
        """Other images in the same frame and colours. Raises UsageError if the model's features have another width."""
        maps = []
        for image in _one_by_one(images):
            patches, _, fit = _patches(model, image, self.transform, attention=False)
            if patches.shape[-1] != len(self.basis.mean):
                raise UsageError(
                    f"{model.card.name} has features {patches.shape[-1]} wide; these components are of {len(self.basis.mean)}."
                )
            maps.append(self._map(patches, fit))
        return tuple(maps)

    def _map(self, patches: Tensor, fit: Fit) -> ComponentMap:
        projections = self.basis.project(patches)
        span = self.high - self.low
        shares = torch.where(span > 0, (projections - self.low) / span, 0.5)  # a colour that does not vary is halfway
        colours = (shares.clamp(0, 1) * 255).round().byte()
        foreground = self.split.foreground(patches) if self.split else torch.ones(patches.shape[:2], dtype=torch.bool)
        return ComponentMap(projections.float(), foreground, colours, fit)


def components(
    model: Model, images: ImageLike | Iterable[ImageLike], options: ComponentsOptions | None = None, **changes: Any
) -> Components:
    """The first three principal components of the patches of all images together, as colours (the recipe that DINOv2 made popular).

    First the foreground: the patches on one side of a threshold along the first component of all patches, each less the mean
    of its image, so that unlike images do not end up on one side whole. The threshold is where the two sides differ most
    (Otsu's). The foreground is the side that [CLS] attends to more; for a Swin, which has no [CLS], the one that keeps off the
    border more. Then the colours: the first three components of the foreground's patches, brightest at the 99th percentile.
    All is exact and in float64. Features are kept until the end: 4 bytes x D x patches, 2.4 MB an image by ViT-B/16 at 448 pixels.

    Args:
        model: what `ibot_hub.load` gives.
        images: a path, PIL image or uint8 array, or several; those of a generator are not all held at once.
        options: how they are prepared; `changes` are fields of it by name: components(model, images, background=True).

    Raises:
        UsageError: no images, or too many to keep their features; ImageError: one that cannot be read.
    """
    options = replace(options or ComponentsOptions(), **changes)
    transform = components_transform(model, options)
    kept = _kept(model, images, transform, attention=not options.background)
    split = None if options.background else _split([patches for patches, _, _ in kept], [attention for _, attention, _ in kept])
    rows = [patches[split.foreground(patches)] if split else patches.flatten(0, 1) for patches, _, _ in kept]  # [n, D] an image
    basis = principal_components(rows)
    shown = torch.cat([basis.project(patches) for patches in rows]).numpy()
    low, high = (torch.from_numpy(np.quantile(shown, tail, axis=0)) for tail in (TAIL, 1 - TAIL))
    frame = Components((), basis, low, high, split, transform)
    return replace(frame, maps=tuple(frame._map(patches, fit) for patches, _, fit in kept))


def components_transform(model: Model, options: ComponentsOptions) -> ImageTransform:
    """How images are prepared for their components: larger than for one vector, and by default whole."""
    return replace(model.transform, size=options.size or ROWS * model.transform.patch, resize=options.resize)


def principal_components(rows: Sequence[Tensor]) -> Basis:
    """The exact first three of features [n, D] in one or several pieces, by their covariance in float64."""
    count = sum(len(piece) for piece in rows)
    mean = torch.stack([piece.double().sum(0) for piece in rows]).sum(0) / count
    covariance = torch.zeros(len(mean), len(mean)).double()
    for piece in rows:
        centred = piece.double() - mean
        covariance += centred.T @ centred / count
    variances, vectors = torch.linalg.eigh(covariance)  # ascending
    variances, axes = variances.flip(0)[:3], vectors.T.flip(0)[:3]
    total = covariance.trace()
    real = variances > NOISE * (total + mean.square().sum())
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = torch.where(real[:, None], axes * largest.sign(), 0)
    explained = torch.where(real, variances / total, 0)
    missing = 3 - len(axes)  # of features that are narrower than three
    return Basis(mean, torch.nn.functional.pad(axes, (0, 0, 0, missing)), torch.nn.functional.pad(explained, (0, missing)))


def otsu_threshold(values: Tensor) -> float:
    """The number that splits values [n] where the means of the two sides lie furthest apart for their sizes (Otsu 1979), exact."""
    ordered = values.double().sort().values
    count = len(ordered)
    below = torch.arange(1, count)  # values on the lower side of each split
    sums = ordered.cumsum(0)
    gap = (sums[-1] - sums[:-1]) / (count - below) - sums[:-1] / below
    best = int((gap.square() * below * (count - below)).argmax())
    return float(ordered[best] + ordered[best + 1]) / 2


def _split(patches: Sequence[Tensor], attention: Sequence[Tensor | None]) -> Split | None:
    """The foreground of images from their patches [H, W, D] and attention [H, W]; None where all patches of an image are alike."""
    centred = [image.double().flatten(0, 1) - image.double().mean((0, 1)) for image in patches]
    first = principal_components(centred)
    if first.explained[0] == 0:
        return None
    axis = first.axes[0]
    threshold = otsu_threshold(torch.cat([image @ axis for image in centred]))
    split = Split(axis, threshold)
    above, scores = (
        [split.foreground(image).flatten() for image in patches],
        [_interest(image.shape[:2], weights) for image, weights in zip(patches, attention, strict=True)],
    )
    mask, score = torch.cat(above), torch.cat(scores)
    return split if score[mask].mean() >= score[~mask].mean() else Split(-axis, -threshold)


def _interest(shape: Sequence[int], attention: Tensor | None) -> Tensor:
    """How much each patch counts as foreground, [H * W] with a mean of 1: the attention of [CLS], or being off the border."""
    weights = attention
    if weights is None:
        weights = torch.zeros(*shape)
        weights[1:-1, 1:-1] = 1
    return weights.flatten() / weights.mean().clamp(min=1e-30)


def _kept(
    model: Model, images: ImageLike | Iterable[ImageLike], transform: ImageTransform, *, attention: bool
) -> list[tuple[Tensor, Tensor | None, Fit]]:
    """Patches, attention and fit of every image."""
    kept, size = [], 0
    for image in _one_by_one(images):
        kept.append(_patches(model, image, transform, attention=attention))
        size += kept[-1][0].nbytes
        if size > MAX_BYTES:
            raise UsageError(f"The features of {len(kept)} images fill {MAX_BYTES >> 20} MiB; give fewer images, or a smaller size.")
    if not kept:
        raise UsageError("There are no images to find components of.")
    return kept


def _patches(model: Model, image: ImageLike, transform: ImageTransform, *, attention: bool) -> tuple[Tensor, Tensor | None, Fit]:
    """Patches [H, W, D] float32 on the CPU, what [CLS] attends to in the last block ([H, W], mean of its heads), and the fit."""
    picture = as_images(image)[0]
    pixels = transform(picture)[None]
    with torch.no_grad():
        patches = model(pixels).patches[0].float().cpu()
        wanted = attention and not isinstance(model.backbone, Swin)
        weights = model.attention(pixels)[0].mean(0).float().cpu() if wanted else None
    return patches, weights, transform.fit(*picture.size)


def _one_by_one(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """A single image as one of several."""
    return [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else images
