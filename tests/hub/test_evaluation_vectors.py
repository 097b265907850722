"""Vectors come in the order of the images, and once described an image is not described again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ibot_hub.errors import ImageError, StoreError, UsageError
from ibot_hub.evaluation import vectors as module
from ibot_hub.evaluation.vectors import Seen, vectors
from ibot_hub.listing import Entry


@pytest.fixture
def images(tmp_path: Path) -> list[Seen]:
    """Ten images, the left half of each as bright as its number, the right half 100 more."""
    found = []
    for number in range(10):
        picture = np.full((6, 8, 3), number, dtype=np.uint8)
        picture[:, 4:] += 100
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path)
        found.append(Seen(Entry(path.name, str(path))))
    return found


def prepare(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def describe(pixels: Tensor) -> Tensor:
    """Mean and width."""
    return torch.stack([pixels.float().mean(), torch.tensor(float(pixels.shape[1]))])


def test_rows_are_those_of_the_images(images: list[Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 4)
    rows = vectors(images, prepare, describe, tmp_path / "cache", {})
    assert rows.tolist() == [[number + 50, 8] for number in range(10)]
    assert sorted(path.name for path in (tmp_path / "cache").glob("*/*")) == ["00000000.npy", "00000004.npy", "00000008.npy"]


def test_a_box_is_all_that_is_looked_at(images: list[Seen], tmp_path: Path) -> None:
    boxes = [(4.0, 0.0, 8.0, 6.0), (0.0, 0.0, 3.6, 2.0), (-5.0, -5.0, 99.0, 99.0)]
    seen = [Seen(image.entry, box) for image, box in zip(images[:3], boxes, strict=True)]
    assert vectors(seen, prepare, describe, tmp_path, {}).tolist() == [[100, 4], [1, 4], [52, 8]]
    with pytest.raises(ImageError, match=r"3\.png: the box \(9, 0, 12, 6\) does not lie in its 8 x 6 pixels"):
        vectors([Seen(images[3].entry, (9, 0, 12, 6))], prepare, describe, tmp_path, {})


def test_a_rerun_goes_on_where_it_stopped(images: list[Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 4)
    described: list[float] = []

    def stopped(pixels: Tensor) -> Tensor:
        if len(described) == 6:
            raise KeyboardInterrupt
        described.append(float(pixels.float().mean()))
        return describe(pixels)

    with pytest.raises(KeyboardInterrupt):
        vectors(images, prepare, stopped, tmp_path / "cache", {})
    described.clear()

    def counted(pixels: Tensor) -> Tensor:
        described.append(float(pixels.float().mean()))
        return describe(pixels)

    rows = vectors(images, prepare, counted, tmp_path / "cache", {})
    assert described == [54, 55, 56, 57, 58, 59]  # the first piece was whole
    assert rows[:, 0].tolist() == list(range(50, 60))


def test_other_images_or_another_way_are_described_anew(images: list[Seen], tmp_path: Path) -> None:
    def doubled(pixels: Tensor) -> Tensor:
        return 2 * describe(pixels)

    first = vectors(images, prepare, describe, tmp_path, {"size": 1})
    assert vectors(images, prepare, doubled, tmp_path, {"size": 1}).equal(first)  # by the facts it is the same
    assert vectors(images, prepare, doubled, tmp_path, {"size": 2}).equal(2 * first)
    assert vectors(images[:9], prepare, doubled, tmp_path, {"size": 1}).equal(2 * first[:9])
    boxes = [Seen(image.entry, (0.0, 0.0, 4.0, 6.0)) for image in images]
    assert vectors(boxes, prepare, describe, tmp_path, {"size": 1})[:, 1].tolist() == [4] * 10


def test_an_image_replaced_under_its_name_is_described_anew(images: list[Seen], tmp_path: Path) -> None:
    first = vectors(images, prepare, describe, tmp_path / "cache", {})
    Image.fromarray(np.full((6, 8, 3), 200, dtype=np.uint8)).save(images[3].entry.location)
    changed = vectors(images, prepare, describe, tmp_path / "cache", {})
    assert changed[3].tolist() == [200, 8]
    changed[3] = first[3]
    assert changed.equal(first)


def test_what_is_wrong_is_named(images: list[Seen], tmp_path: Path) -> None:
    def refuses(pixels: Tensor) -> Tensor:
        raise UsageError("Images of 6 x 8 pixels hold no patch of 16.")

    with pytest.raises(ImageError, match=r"0\.png: Images of 6 x 8 pixels hold no patch of 16"):
        vectors(images, prepare, refuses, tmp_path, {})
    with pytest.raises(UsageError, match=r"The vector of 0\.png is not finite"):
        vectors(images, prepare, lambda pixels: describe(pixels) / 0, tmp_path, {})
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"2\.png: the file is empty"):
        vectors(images, prepare, describe, tmp_path, {})
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        vectors(images[:1], prepare, describe, tmp_path / "file", {})
