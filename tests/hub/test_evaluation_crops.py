"""Fresh crops are other ones in each epoch, the same for the same seed, and drawn as officially."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.errors import ImageError, SourceError
from ibot_hub.evaluation.crops import FreshCrops, entries_of, random_crop
from ibot_hub.evaluation.images import network_of
from ibot_hub.evaluation.linear import linear
from ibot_hub.evaluation.options import SweepOptions
from ibot_hub.loading import load
from ibot_hub.model import Model
from tests.class_folders import ANIMALS, write_classes

PATHS = [f"{name}/{number}.png" for name in ANIMALS for number in range(4)]
LABELS = torch.arange(12) // 4


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture
def crops(model: Model, tmp_path: Path) -> FreshCrops:
    source = write_classes(tmp_path / "images")
    network = network_of(model, SweepOptions(size=32, device="cpu", batch_size=3))
    return FreshCrops(network, entries_of(source, PATHS), LABELS, 2, "cls", step_images=5, seed=7)


def test_crops_are_boxes_of_the_image() -> None:
    """Red grows with x, green with y: where a crop comes from can be read off its colours."""
    y, x = np.mgrid[:200, :250]
    ramp = Image.fromarray(np.stack([x, y, np.full_like(x, 30)], axis=-1).astype(np.uint8))
    shares, flips = [], 0
    for seed in range(400):
        crop = random_crop(ramp, 16, np.random.default_rng(seed)).numpy().astype(int)
        assert crop.shape == (3, 16, 16)
        left, right = crop[0, 8, 0], crop[0, 8, -1]
        flips += left > right
        shares.append(abs(right - left) * abs(crop[1, -1, 8] - crop[1, 0, 8]) * (16 / 15) ** 2 / 50_000)
    assert 170 < flips < 230
    assert min(shares) < 0.12
    assert max(shares) > 0.9
    assert 0.4 < np.mean(shares) < 0.6  # uniform from 0.08 to 1, less those that do not fit
    assert torch.equal(random_crop(ramp, 16, np.random.default_rng(3)), random_crop(ramp, 16, np.random.default_rng(3)))


def test_every_epoch_sees_every_image_in_another_crop(crops: FreshCrops) -> None:
    rows = torch.tensor([0, 1, 2, 3, 4, 6, 8, 9, 10, 11])
    first, again, second = (list(crops(rows)(epoch)) for epoch in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [5, 5]
    assert [features.shape for features, _ in first] == [(5, 256), (5, 256)]
    assert torch.cat([labels for _, labels in first]).bincount().tolist() == [4, 2, 4]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], second[0][0])


def test_features_are_those_of_the_crop(crops: FreshCrops, model: Model) -> None:
    ((features, labels),) = crops(torch.tensor([9]))(3)
    image = Image.open(crops.entries[9].location).convert("RGB")
    pixels = random_crop(image, 32, np.random.default_rng((7, 3, 9)))
    with torch.no_grad():
        layers = model.last_layers(model.transform.normalise(pixels)[None], 2)
    assert torch.allclose(features, torch.cat([tokens.cls for tokens in layers], dim=1), atol=1e-5)
    assert labels.tolist() == [2]


def test_a_classifier_learns_from_them(crops: FreshCrops) -> None:
    (plain, labels), *_ = [
        (torch.cat([f for f, _ in steps]), torch.cat([y for _, y in steps])) for steps in [list(crops(torch.arange(12))(0))]
    ]
    given = (plain[labels.argsort(stable=True)], labels.sort().values)
    report = linear(*given, *given, SweepOptions(epochs=6, step_images=5, device="cpu"), crops=crops)
    assert report.augmented
    assert report.top1 == 100.0


def test_images_that_are_gone_or_broken_are_named(crops: FreshCrops, tmp_path: Path) -> None:
    (tmp_path / "images" / "bee" / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"bee/2.png: the file is empty"):
        list(crops(torch.arange(12))(0))
    with pytest.raises(SourceError, match=r"bee/9.png of .* is there no more"):
        entries_of(tmp_path / "images", ["ape/0.png", "bee/9.png"])
