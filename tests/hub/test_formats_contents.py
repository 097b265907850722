"""A model gives back the tensors and the origin that it was made of."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot_hub import weights
from ibot_hub.formats.contents import contents
from ibot_hub.loading import load
from ibot_hub.origin import Origin


@pytest.mark.parametrize("file", ["vit_micro_checkpoint.pth", "swin_micro_w7_checkpoint.pth"])
@pytest.mark.parametrize("network", ["teacher", "student"])
def test_what_was_read_comes_back(golden: Path, file: str, network: str) -> None:
    read, ours = weights.read(golden / file, network), contents(load(golden / file, network), "timm")
    for mine, theirs in ((ours.backbone, read.backbone), (ours.head or {}, read.head or {})):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert (ours.mask_token is None) == (network == "teacher")
    assert ours.mask_token is None or torch.equal(ours.mask_token, read.mask_token)  # type: ignore[arg-type]
    heads = 2 if file.startswith("vit") else None
    assert ours.origin == Origin(network, "timm", heads, 1e-6, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "crop")


def test_dtype_and_preparation_are_the_models_own(golden: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth", head=False, dtype="bfloat16")
    model.transform = replace(model.transform, mean=(0.1, 0.2, 0.3))
    ours = contents(model, "timm")
    assert ours.head is None
    assert {tensor.dtype for tensor in ours.backbone.values()} == {torch.bfloat16}
    assert ours.origin.mean == (0.1, 0.2, 0.3)
    assert not any(tensor.requires_grad for tensor in ours.backbone.values())
