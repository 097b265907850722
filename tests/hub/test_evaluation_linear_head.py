"""A saved head opens as it was, and serves only the model that it was trained on."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.evaluation.labelled import labelled
from ibot_hub.evaluation.linear_head import LinearHead, open_head
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions
from tests.class_folders import write_classes

SMALL = EvaluationOptions(size=32, device="cpu")


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture(scope="module")
def head(model: Model, tmp_path_factory: pytest.TempPathFactory) -> LinearHead:
    folder = tmp_path_factory.mktemp("head")
    side = labelled(write_classes(folder / "images", 1), model, folder / "features", SMALL)
    rng = torch.Generator().manual_seed(0)
    return LinearHead(torch.randn(3, 128, generator=rng), torch.randn(3, generator=rng), side.classes, 0.3, side.manifest)


def test_opens_as_it_was_saved(head: LinearHead, tmp_path: Path) -> None:
    head.save(tmp_path / "head.safetensors")
    again = open_head(tmp_path / "head.safetensors")
    assert torch.equal(again.weight, head.weight)
    assert torch.equal(again.bias, head.bias)
    assert (again.classes, again.rate, again.manifest) == (("ape", "bee", "cat"), 0.3, head.manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]
    features = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(again.logits(features.bfloat16()), features.bfloat16().float() @ head.weight.T + head.bias, atol=1e-5)


def test_serves_its_own_model_prepared_alike(head: LinearHead, model: Model, golden: Path) -> None:
    transform = replace(model.transform, size=32)
    head.check(model.backbone, asdict(transform))
    with pytest.raises(UsageError, match="trained on images prepared otherwise: size 32, now 48; resize crop, now squash"):
        head.check(model.backbone, asdict(replace(transform, size=48, resize="squash")))
    student = load(golden / "vit_micro_checkpoint.pth", network="student")
    with pytest.raises(
        UsageError, match=r"trained on features of .*vit_micro_checkpoint.pth .*teacher network.*, whose weights are others"
    ):
        head.check(student.backbone, asdict(transform))


def test_other_files_are_refused(head: LinearHead, golden: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"There is no .*nothing.safetensors; `ibot eval linear` writes a head"):
        open_head(tmp_path / "nothing.safetensors")
    for name in ("vit_micro_checkpoint.pth", "vit_micro_outputs.safetensors"):
        with pytest.raises(StoreError, match=f"{name} is no head that `ibot eval linear` wrote"):
            open_head(golden / name)
    replace(head, classes=("ape",)).save(tmp_path / "short.safetensors")
    with pytest.raises(StoreError, match=r"1 classes, weights \[3, 128\] and biases \[3\]"):
        open_head(tmp_path / "short.safetensors")


def test_a_folder_is_made_where_one_can_be(head: LinearHead, tmp_path: Path) -> None:
    head.save(tmp_path / "new" / "head.safetensors")
    with pytest.raises(StoreError, match=r"head.safetensors cannot be written \(.*; free space, or choose another --out"):
        head.save(tmp_path / "new" / "head.safetensors" / "head.safetensors")
