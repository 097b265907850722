"""Prepared images -> the columns of features that a shard holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibot_hub.backbones import Backbone
from ibot_hub.errors import WeightsError
from ibot_hub.features.pipeline import Batch, Prepared
from ibot_hub.features.shards import Failure, Rows
from ibot_hub.features.store import Manifest
from ibot_hub.images import ImageTransform
from ibot_hub.tokens import Tokens


def image_features(backbone: Backbone, images: Tensor, manifest: Manifest) -> dict[str, Tensor]:
    """Normalised images [B, 3, H, W] -> {"feature": [B, F], "patches": [B, h, w, D]}, as far as the manifest asks for them.

    The patches of several layers stand one behind the other in D. A pooled mean is always of the last block: with
    pool="cls+mean" and layers=n this is the official probing feature of ViT-B and ViT-L.
    """
    answers = backbone.last_layers(images, manifest.layers)
    columns = {}
    if manifest.tokens != "patches":
        columns["feature"] = image_vector(answers, manifest.pool)
    if manifest.tokens != "cls":
        columns["patches"] = torch.cat([answer.patches for answer in answers], dim=-1)
    return columns


def image_vector(answers: Sequence[Tokens], pool: str) -> Tensor:
    """Tokens after the last blocks, oldest first -> the one vector of each image [B, F], as `pool` makes it."""
    parts = [answer.cls for answer in answers] if pool != "mean" else []
    if pool != "cls":
        patches = answers[-1].patches
        parts.append(patches.float().mean(dim=(1, 2)).to(patches.dtype))
    return torch.cat(parts, dim=-1)


def batch_features(backbone: Backbone, transform: ImageTransform, batch: Batch, manifest: Manifest) -> dict[str, list[Tensor]]:
    """The columns of the images of a batch that have pixels: one tensor an image, on the device."""
    weight = next(backbone.parameters())
    readable = [image.pixels for image in batch.images if image.pixels is not None]
    columns: dict[str, list[Tensor]] = {name: [weight] * len(readable) for name in manifest.columns}
    for shape in dict.fromkeys(pixels.shape for pixels in readable):  # more than one only with resize=keep
        indices = [index for index, pixels in enumerate(readable) if pixels.shape == shape]
        stacked = torch.stack([readable[index] for index in indices])
        if weight.is_cuda:
            stacked = stacked.pin_memory()
        with torch.inference_mode():
            images = transform.normalise(stacked.to(weight.device, non_blocking=True)).to(weight.dtype)
            answer = image_features(backbone, images, manifest)
        for name, values in answer.items():
            for index, value in zip(indices, values, strict=True):
                columns[name][index] = value
    return columns


def shard_rows(images: Sequence[Prepared], features: Sequence[dict[str, list[Tensor]]], manifest: Manifest) -> Rows:
    """One shard from its images and the columns of its batches."""
    good = [image for image in images if not image.failure]
    arrays: dict[str, Any] = {}
    for name, shape in manifest.columns.items():
        tensors = [tensor for batch in features for tensor in batch[name]]
        if shape is None:
            arrays[name] = [tensor.float().cpu().numpy() for tensor in tensors]
        else:
            arrays[name] = torch.stack(tensors).float().cpu().numpy() if tensors else np.empty((0, *shape), np.float32)
        if not all(np.isfinite(array).all() for array in arrays[name]):
            advice = "its weights or --mean and --std are wrong" if manifest.dtype == "float32" else "--dtype float32 --overwrite may help"
            raise WeightsError(f"{manifest.model} gives features that are not finite in {manifest.dtype}: {advice}.")
    failures = tuple(Failure(image.row, image.path, image.failure) for image in images if image.failure)
    return Rows([image.path for image in good], [image.width for image in good], [image.height for image in good], arrays, failures)
