"""Clips are read from the folders of DAVIS, and masks mean the same in every form that they come in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.errors import ImageError, SourceError, UsageError
from ibot_hub.evaluation.clips import objects_of, read_clips, read_mask

LABELS = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two clips of three frames; of the second one the last frame alone has a second mask."""
    for name, masks in (("bear", (0, 1, 2)), ("crane", (0, 2))):
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / kind / "480p" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (3, 2), "white").save(tmp_path / "JPEGImages/480p" / name / f"{index:05d}.jpg")
            if index in masks:
                mask = Image.fromarray(LABELS)
                mask.putpalette(list(range(256)) * 3)
                mask.save(tmp_path / "Annotations/480p" / name / f"{index:05d}.png")
    return tmp_path


def test_all_clips_of_a_folder(davis: Path) -> None:
    bear, crane = read_clips(davis)
    assert (bear.name, crane.name) == ("bear", "crane")
    assert [path.name for path in bear.frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert {index: path.name for index, path in crane.masks.items()} == {0: "00000.png", 2: "00002.png"}
    assert np.array_equal(read_mask(bear.masks[0], (3, 2)), LABELS)
    assert objects_of(LABELS) == (1, 2)


def test_a_list_chooses_clips(davis: Path) -> None:
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/val.txt").write_text("crane\n")
    (davis / "ImageSets/2017/train.txt").write_text("crane\nbear\n")
    assert [clip.name for clip in read_clips(davis)] == ["crane"]
    assert [clip.name for clip in read_clips(davis, "train")] == ["crane", "bear"]
    with pytest.raises(SourceError, match=r"no .*test\.txt, the list of clips that --split test names"):
        read_clips(davis, "test")
    (davis / "ImageSets/2017/val.txt").write_text("\n")
    with pytest.raises(SourceError, match=r"val\.txt names no clip"):
        read_clips(davis)
    (davis / "ImageSets/2017/val.txt").write_text("wolf\n")
    with pytest.raises(SourceError, match="wolf holds no images"):
        read_clips(davis)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", ".."])
def test_a_list_leads_nowhere_else(davis: Path, name: str) -> None:
    listed = davis / "ImageSets" / "2017" / "val.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text(f"{name}\n")
    with pytest.raises(SourceError, match="which is no name of a folder of frames"):
        read_clips(davis)


def test_folders_in_another_layout_are_refused(davis: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"There is no .*JPEGImages/480p: clips are looked for in the layout of DAVIS"):
        read_clips(davis / "JPEGImages")
    (davis / "Annotations/480p/bear/00000.png").unlink()
    with pytest.raises(UsageError, match=r"bear has no mask of the first frame, 00000\.png"):
        read_clips(davis)


def test_masks_in_grey(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(LABELS).save(path)
    assert np.array_equal(read_mask(path, (3, 2)), LABELS)
    white = ((LABELS == 1) * 255).astype(np.uint8)
    for image in (Image.fromarray(white), Image.fromarray(white).convert("1")):
        image.save(path)
        assert np.array_equal(read_mask(path, (3, 2)), LABELS == 1)  # one object, not undecided pixels
    palette = Image.fromarray(white)
    palette.putpalette(list(range(256)) * 3)
    palette.save(path)
    assert np.array_equal(read_mask(path, (3, 2)), white)  # here they are undecided


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(ImageError, match=r"mask\.png: no such file"):
        read_mask(path, (3, 2))
    Image.new("RGB", (3, 2)).save(path)
    with pytest.raises(ImageError, match=r"mask\.png is no mask: it is RGB"):
        read_mask(path, (3, 2))
    Image.fromarray(LABELS).save(path)
    with pytest.raises(ImageError, match=r"mask\.png is 3 x 2, and its frame 4 x 2"):
        read_mask(path, (4, 2))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"mask\.png: broken or no image"):
        read_mask(path, (3, 2))
