"""Exported files are those of the official code: key for key, shape for shape, value for value."""

from pathlib import Path

import pytest
import torch

from ibot_hub.formats.official import official_network, write_official
from ibot_hub.head import Head
from ibot_hub.loading import load


@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize("file", ["vit_micro_checkpoint.pth", "swin_micro_w7_checkpoint.pth"])
def test_a_full_checkpoint(golden: Path, tmp_path: Path, file: str, network: str) -> None:
    write_official(load(golden / file, network), tmp_path)
    theirs = torch.load(golden / file, weights_only=False)[network]
    ours = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert list(ours) == [network]
    assert ours[network].keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[network][name].dtype == tensor.dtype, name
        assert torch.equal(ours[network][name], tensor), name
    shared = [ours[network][name] for name in theirs if name.endswith("weight_v")]
    assert len(shared) == 2
    assert shared[0].data_ptr() == shared[1].data_ptr()  # in the file it lies once


def test_a_backbone_only_file(golden: Path, tmp_path: Path) -> None:
    file = "swin_micro_w14_checkpoint_teacher.pth"
    write_official(load(golden / file), tmp_path)
    theirs = torch.load(golden / file, weights_only=True)["state_dict"]
    ours = torch.load(tmp_path / "checkpoint_teacher.pth", weights_only=True)
    assert list(ours) == ["state_dict"]
    assert ours["state_dict"].keys() == theirs.keys()
    assert all(torch.equal(ours["state_dict"][name], theirs[name]) for name in theirs)
    assert not [name for name in torch.load(tmp_path / "checkpoint.pth")["teacher"] if name.startswith("head.")]


def test_the_backbone_of_a_student_has_its_mask_token(golden: Path, tmp_path: Path) -> None:
    write_official(load(golden / "vit_micro_checkpoint.pth", "student"), tmp_path)
    assert torch.load(tmp_path / "checkpoint_student.pth")["state_dict"]["masked_embed"].shape == (1, 128)
    model = load(tmp_path)
    assert (model.card.network, model.mask_token is not None, model.head is not None) == ("student", True, True)
    assert load(tmp_path / "checkpoint_student.pth").card.network == "student"


def test_a_separate_layer_of_the_patches_stays_its_own(golden: Path, tmp_path: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    model.head = Head(128, 96, 50, 128, 32)
    write_official(model, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pth")["teacher"]
    assert (len(state["head.last_layer.weight_v"]), len(state["head.last_layer2.weight_v"])) == (96, 50)


def test_a_network_that_is_not_stated(golden: Path, tmp_path: Path) -> None:
    for network in ("teacher", "student"):
        state = torch.load(golden / "vit_micro_checkpoint.pth", weights_only=False)[network]
        torch.save(state, tmp_path / "flat.pth")
        model = load(tmp_path / "flat.pth")
        assert (model.card.network, official_network(model)) == (None, network)
