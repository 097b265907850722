"""Images come with their classes, prepared as the model prepares them; broken ones are counted and left out."""

from pathlib import Path

import pytest
import torch

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.images import image_batches, network_of
from ibot_hub.features.extraction import extract
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions
from tests.class_folders import write_classes

SMALL = EvaluationOptions(size=32, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


def test_all_images_that_can_be_read_come_in_order(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_classes(tmp_path / "images", 3)
    (source / "bee" / "1.png").write_bytes(b"")
    network = network_of(model, SMALL)
    batches = list(image_batches(source, network, "looking"))
    assert [len(batch.images) for batch in batches] == [4, 3, 1]
    assert [name for batch in batches for name in batch.classes] == ["ape"] * 3 + ["bee"] * 2 + ["cat"] * 3
    assert [row for batch in batches for row in batch.rows] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert f"1 image of {source} could not be read and is left out: bee/1.png\n" in capsys.readouterr().err
    tokens = model(str(source / "cat" / "2.png"), transform=network.transform)
    assert torch.allclose(network.backbone(batches[-1].images).cls, tokens.cls, atol=1e-5)


def test_what_is_no_source_of_images_is_refused(model: Model, tmp_path: Path) -> None:
    source = write_classes(tmp_path / "images", 1)
    network = network_of(model, SMALL)
    features = extract(model, source, tmp_path / "features", size=32, device="cpu").out
    with pytest.raises(UsageError, match="features holds features, and the images themselves are needed"):
        list(image_batches(features, network, "looking"))
    with pytest.raises(UsageError, match=r"0.png of .* is in no class folder"):
        list(image_batches(source / "ape", network, "looking"))
    for file in source.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(SourceError, match=r"No image of .* can be read"):
        list(image_batches(source, network, "looking"))


def test_images_of_one_shape_are_needed(model: Model) -> None:
    with pytest.raises(UsageError, match="must come out in one shape here; say --resize crop or squash"):
        network_of(model, EvaluationOptions(resize="keep"))
    assert network_of(model, EvaluationOptions(resize="squash", size=48)).transform.fit(10, 20).out == (48, 48)
