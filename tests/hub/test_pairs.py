"""Two networks come of whatever holds two, and one stands for both where there is one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ibot_hub import pairs, weights
from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import UnknownModelError, WeightsError
from ibot_hub.formats.full import read_centres
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.pairs import load_pair


@pytest.fixture(scope="module")
def path(golden: Path) -> Path:
    return golden / "vit_micro_checkpoint.pth"


def assert_same(one: Model, other: Model) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())


def test_an_official_checkpoint_gives_two_networks_and_the_centres(path: Path) -> None:
    pair = load_pair(str(path))
    assert_same(pair.student, load(path, "student"))
    assert_same(pair.teacher, load(path, "teacher"))
    assert (pair.student.card.network, pair.teacher.card.network) == ("student", "teacher")
    theirs = read_centres(path)
    assert theirs
    assert pair.centres
    assert all(ours.equal(tensor) for ours, tensor in zip(pair.centres, theirs, strict=True))


def test_a_run_without_checkpoints_gives_two_networks(path: Path, tmp_path: Path) -> None:
    for network in ("student", "teacher"):
        weights.save(weights.read(path, network), tmp_path / f"{network}.safetensors")
    pair = load_pair(tmp_path)
    assert_same(pair.student, load(path, "student"))
    assert_same(pair.teacher, load(path, "teacher"))
    assert pair.centres is None


def test_one_network_is_both(path: Path, tmp_path: Path) -> None:
    weights.save(weights.read(path, "student"), tmp_path / "one.safetensors")
    for name, network in ((tmp_path / "one.safetensors", "student"), ("tiny", "teacher")):
        pair = load_pair(name)
        assert pair.student is pair.teacher
        assert (pair.student.card.network, pair.centres) == (network, None)


def test_a_name_of_the_catalogue_brings_its_full_checkpoint(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Checkpoint(name="micro", arch="ViT-128x2/16", network="teacher", data="", folder="micro", full_file="checkpoint.pth")
    monkeypatch.setattr(pairs, "list_models", lambda: ["micro"])
    monkeypatch.setattr(pairs, "info", lambda name: entry)
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(tmp_path))
    (tmp_path / "micro").mkdir()
    shutil.copy(path, tmp_path / "micro" / "checkpoint.pth")
    pair = load_pair("micro")
    assert_same(pair.student, load(path, "student"))
    assert_same(pair.teacher, load(path, "teacher"))
    assert pair.centres


def test_what_makes_no_pair_is_told(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="vit_b61"):
        load_pair("vit_b61")
    with pytest.raises(WeightsError, match="does not exist"):
        load_pair(tmp_path / "nothing")
    backbone: dict[str, Any] = dict(weights.read(path, "teacher", False).backbone)
    torch.save({"state_dict": backbone}, tmp_path / "backbone.pth")
    with pytest.raises(WeightsError, match="holds no projection head"):
        load_pair(tmp_path / "backbone.pth")
    full = torch.load(path, weights_only=False)
    torch.save(full | {"ibot_loss": {"center": torch.zeros(1, 96), "center2": torch.zeros(1, 1, 95)}}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match=r"checkpoint\.pth: a centre is of 95 patterns, its head has 96"):
        load_pair(tmp_path / "checkpoint.pth")
