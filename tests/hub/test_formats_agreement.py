"""The difference between two implementations is the largest there is, in float32 and in evaluation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ibot_hub.formats.agreement import for_comparison, largest_difference, noise
from ibot_hub.loading import load
from ibot_hub.model import Model


@pytest.fixture
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth", head=False)


@pytest.mark.parametrize("part", ["cls", "patches", None])
def test_the_largest_difference(model: Model, part: str | None) -> None:
    def answer(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = model(images)
        cls, patches = tokens.cls.clone(), tokens.patches.flatten(1, 2).clone()
        cls[2, 5] += 0.25 if part == "cls" else 0
        patches[1, 7, 3] -= 0.5 if part == "patches" else 0
        return cls, patches

    assert largest_difference(model, answer, count=3) == pytest.approx({"cls": 0.25, "patches": 0.5, None: 0}[part])


def test_the_images_are_the_same_each_time_and_of_the_native_size(model: Model) -> None:
    assert noise(model, 3).shape == (3, 3, 224, 224)
    assert torch.equal(noise(model), noise(model))


def test_a_model_in_training_or_half_precision_is_left_as_it_is(model: Model) -> None:
    assert for_comparison(model) is model.backbone
    model.to(torch.float16).train()
    compared = for_comparison(model)
    assert compared is not model.backbone
    assert (next(compared.parameters()).dtype, compared.training) == (torch.float32, False)
    assert (model.dtype, model.backbone.training) == (torch.float16, True)
