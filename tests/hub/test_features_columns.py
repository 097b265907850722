"""Columns of features against the tokens they are made of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.errors import WeightsError
from ibot_hub.features.columns import batch_features, shard_rows
from ibot_hub.features.pipeline import Batch, Prepared
from ibot_hub.features.store import Manifest
from ibot_hub.images import ImageTransform
from ibot_hub.vit import ViT


def manifest(**changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "model": "m", "arch": "a", "network": None, "weights": "", "source": "", "images": 3, "listing": "", "preprocessing": {},
        "tokens": "both", "layers": 1, "pool": "cls", "dtype": "float32", "batch_size": 3, "format": "npy", "shard_size": 3,
        "device": "cpu",
        "columns": {"feature": [64], "patches": None}, "versions": {},
    }  # fmt: skip
    return Manifest(**(facts | changes))


def network() -> ViT:
    torch.manual_seed(0)
    return ViT(img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=1).eval()


def batch(transform: ImageTransform, sizes: list[tuple[int, int]]) -> Batch:
    """Images of these sizes, and a broken one in the second place."""
    noise = np.random.default_rng(0)
    pixels = [transform.pixels(Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8))) for width, height in sizes]
    images = [Prepared(row, str(row), 9, 8, tensor) for row, tensor in zip((0, 2, 3, 4), pixels, strict=False)]
    images.insert(1, Prepared(1, "1", failure="broken"))
    return Batch(0, images, 0.0)


def test_images_of_several_shapes_keep_their_places() -> None:
    transform = ImageTransform(size=32, resize="keep")
    mixed = batch(transform, [(32, 32), (64, 32), (32, 32)])
    columns = batch_features(network(), transform, mixed, manifest())
    rows = shard_rows(mixed.images, [columns], manifest())
    assert [patches.shape for patches in rows.arrays["patches"]] == [(2, 2, 64), (2, 4, 64), (2, 2, 64)]
    for place, image in enumerate(image for image in mixed.images if image.pixels is not None):
        with torch.no_grad():
            alone = network()(transform.normalise(image.pixels)[None])  # type: ignore[arg-type]
        assert np.abs(rows.arrays["feature"][place] - alone.cls[0].numpy()).max() < 1e-5
        assert np.abs(rows.arrays["patches"][place] - alone.patches[0].numpy()).max() < 1e-5
    assert (rows.paths, [failure.row for failure in rows.failures]) == (["0", "2", "3"], [1])


def test_values_that_are_not_finite_are_told() -> None:
    broken = network()
    torch.nn.init.constant_(broken.norm.weight, float("inf"))
    transform = ImageTransform(size=32)
    images = batch(transform, [(40, 40)])
    columns = batch_features(broken, transform, images, manifest(columns={"feature": [64]}, tokens="cls"))
    with pytest.raises(WeightsError, match="not finite in float32"):
        shard_rows(images.images, [columns], manifest(columns={"feature": [64]}))


def test_nothing_readable_gives_empty_columns(tmp_path: Path) -> None:
    empty = Batch(0, [Prepared(0, "a", failure="broken")], 0.0)
    described = manifest(columns={"feature": [64], "patches": [2, 2, 64]})
    rows = shard_rows(empty.images, [batch_features(network(), ImageTransform(size=32), empty, described)], described)
    assert [np.shape(rows.arrays[name]) for name in ("feature", "patches")] == [(0, 64), (0, 2, 2, 64)]
