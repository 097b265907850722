"""What stands beside one network is found where it is, and nowhere else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ibot_hub import weights
from ibot_hub.errors import WeightsError
from ibot_hub.formats.full import networks, read_centres


@pytest.fixture(scope="module")
def path(golden: Path) -> Path:
    return golden / "vit_micro_checkpoint.pth"


@pytest.fixture(scope="module")
def full(path: Path) -> dict[str, Any]:
    """What torch itself reads from it."""
    return torch.load(path, weights_only=False)  # type: ignore[no-any-return]


def test_an_official_checkpoint_has_both_networks_and_the_centres_of_its_loss(path: Path, full: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "checkpoint.pth")
    for place in (path, tmp_path):
        assert networks(place) == ("teacher", "student")
        centres = read_centres(place)
        assert centres
        assert centres[0].equal(full["ibot_loss"]["center"][0])
        assert centres[1].equal(full["ibot_loss"]["center2"][0, 0])
        assert centres[0].abs().max() > 0


def test_centres_outlive_the_file(path: Path, full: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    shutil.copy(path, copy)
    centres = read_centres(copy)
    copy.write_bytes(b"\0" * copy.stat().st_size)  # the same inode, which is mapped while it is read
    assert centres
    assert centres[0].equal(full["ibot_loss"]["center"][0])


def test_a_run_has_the_networks_that_it_exported(path: Path, tmp_path: Path) -> None:
    for network in ("student", "teacher"):
        weights.save(weights.read(path, network), tmp_path / f"{network}.safetensors")
        assert networks(tmp_path)[-1] == "student"
    assert networks(tmp_path) == ("teacher", "student")
    assert read_centres(tmp_path) is None


def test_other_containers_have_one_network_or_less(path: Path, full: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"state_dict": full["teacher"]}, tmp_path / "extracted.pth")
    torch.save({"student": full["student"], "dino_loss": {"center": torch.zeros(1, 96)}}, tmp_path / "student.pth")
    torch.save([1], tmp_path / "list.pth")
    weights.save(weights.read(path), tmp_path / "one.safetensors")
    for name, expected in (("extracted.pth", ()), ("student.pth", ("student",)), ("list.pth", ()), ("one.safetensors", ()), ("no", ())):
        assert networks(tmp_path / name) == expected
        assert read_centres(tmp_path / name) is None
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text("{}")
    shutil.copy(path, tmp_path / "timm" / "checkpoint.pth")  # of which `weights.read` reads the other
    assert networks(tmp_path / "timm") == ()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"center": torch.zeros(1, 96)}, "without the tensors center and center2"),
        ({"center": 1, "center2": 2}, "without the tensors center and center2"),
        ([1], "without the tensors center and center2"),
        ({"center": torch.full((1, 96), torch.nan), "center2": torch.zeros(1, 1, 96)}, "hold NaN or infinite values"),
    ],
)
def test_centres_that_are_none_are_told(full: dict[str, Any], tmp_path: Path, loss: object, said: str) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"teacher": full["teacher"], "ibot_loss": loss}, file)
    with pytest.raises(WeightsError, match=f"^{file}.*{said}"):
        read_centres(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="is not a checkpoint, or is cut off"):
        networks(file)
