"""A head is as often right on unchanged images as on their features, and is asked only what it can know."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.images import ImageBatch, Network, network_of
from ibot_hub.evaluation.labelled import Labelled, labelled
from ibot_hub.evaluation.linear import linear
from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.evaluation.robustness import accuracies
from ibot_hub.loading import load
from ibot_hub.options import EvaluationOptions
from tests.class_folders import write_classes

SMALL = EvaluationOptions(size=32, device="cpu", batch_size=5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("robustness") / "images")


@pytest.fixture(scope="module")
def network(golden: Path) -> Network:
    return network_of(load(golden / "vit_micro_checkpoint.pth"), SMALL)


@pytest.fixture(scope="module", params=[(1, "cls"), (2, "cls+mean")])
def side(golden: Path, images: Path, request: pytest.FixtureRequest) -> Labelled:
    layers, pool = request.param
    model = load(golden / "vit_micro_checkpoint.pth")
    return labelled(images, model, images.parent / f"features-{layers}", SMALL, layers=layers, pool=pool)


def same_and_black(batch: ImageBatch) -> Iterator[tuple[str, Tensor]]:
    yield "same", batch.images
    yield "black", torch.zeros_like(batch.images)


def test_unchanged_images_are_told_as_their_features_are(side: Labelled, network: Network, images: Path) -> None:
    report = linear(side.features, side.labels, side.features, side.labels, epochs=5, step_images=6, device="cpu")
    head = LinearHead(report.weight, report.bias, side.classes, report.rate, side.manifest)
    found = accuracies(network, head, images, same_and_black, "looking")
    assert (found.images, found.left_out) == (12, 0)
    assert found.top1["same"] == report.top1 == 100.0
    assert found.top1["black"] == pytest.approx(100 / 3)  # one class for all
    rolled = LinearHead(report.weight.roll(1, 0), report.bias.roll(1), side.classes, report.rate, side.manifest)
    assert accuracies(network, rolled, images, same_and_black, "looking").top1["same"] == 0.0


def test_images_that_cannot_be_read_are_counted(side: Labelled, network: Network, tmp_path: Path) -> None:
    images = write_classes(tmp_path / "images")
    for name in ("ape/0.png", "cat/3.png"):
        (images / name).write_bytes(b"no image")
    head = LinearHead(torch.zeros(3, side.features.shape[1]), torch.zeros(3), side.classes, 0.1, side.manifest)
    found = accuracies(network, head, images, same_and_black, "looking")
    assert (found.images, found.left_out) == (10, 2)


def test_what_the_head_does_not_know_is_refused(side: Labelled, network: Network, images: Path, golden: Path) -> None:
    width = side.features.shape[1]
    few = LinearHead(torch.zeros(2, width), torch.zeros(2), ("ape", "cat"), 0.1, side.manifest)
    with pytest.raises(UsageError, match=r"Class 'bee' of .* is none of the 2 that the head knows"):
        accuracies(network, few, images, same_and_black, "looking")
    other = network_of(load(golden / "vit_micro_checkpoint.pth", network="student"), SMALL)
    with pytest.raises(UsageError, match="whose weights are others"):
        accuracies(other, few, images, same_and_black, "looking")
