"""Images that stay on the device: squashed, whole in number but for the broken ones, which are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ibot_training.resident
from ibot_hub.errors import SourceError
from ibot_training.data import open_images
from ibot_training.resident import keep_on_device

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images of 16 x 16 pixels in two classes, of which the third and the sixth are broken."""
    for number in range(7):
        file = tmp_path / "images" / "ab"[number > 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 2 * number, 3 * number)).save(file)
        if number in (2, 5):
            file.write_bytes(file.read_bytes()[:40])
    return tmp_path / "images"


@pytest.mark.parametrize("at_once", [1, 3, 1024])
def test_those_that_can_be_read_are_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(ibot_training.resident, "AT_ONCE", at_once)
    skipped: list[tuple[str, str]] = []
    resident = keep_on_device(open_images(str(folder), tmp_path), 16, CPU, 2, lambda *words: skipped.append(words))
    assert (len(resident), resident.pixels.shape, resident.pixels.dtype) == (5, (5, 3, 16, 16), torch.uint8)
    kept = torch.tensor([0, 1, 3, 4, 6])
    assert torch.equal(resident.pixels[:, :, 5, 7], torch.stack([kept, 2 * kept, 3 * kept], 1).byte())
    assert resident.labels is not None
    assert (resident.labels.tolist(), resident.classes) == ([0, 0, 0, 1, 1], ("a", "b"))
    assert [name for name, _ in skipped] == ["a/2.png", "b/5.png"]
    assert "broken PNG" in skipped[0][1]


def test_images_of_another_size_are_squashed(photos: Path, tmp_path: Path) -> None:
    images = open_images(str(photos), tmp_path)
    resident = keep_on_device(images, 24, CPU, 2, lambda *_: None)
    wanted = np.asarray(images.load(4).resize((24, 24), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resident.pixels[4].permute(1, 2, 0).numpy(), wanted)
    assert resident.labels is None


def test_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match="None of the 1 images can be read"):
        keep_on_device(open_images(str(tmp_path / "images"), tmp_path), 16, CPU, 2, lambda *_: None)
