"""Data sets of `datasets`: saved ones, those that it loads, and what is wrong with the others."""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ibot_hub.errors import ImageError, SourceError
from ibot_training.data import open_images
from ibot_training.huggingface import is_dataset, open_dataset

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def encoded(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 6), grey).save(stream, "PNG")
    return stream.getvalue()


def rows(labels: list[int | None], **more: Any) -> Any:
    cells = [{"bytes": encoded(grey), "path": None} for grey in range(len(labels))]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, datasets.Features(features), **more)


def test_a_saved_data_set(tmp_path: Path) -> None:
    rows([1, 0, 1]).save_to_disk(tmp_path / "saved")
    for source in (str(tmp_path / "saved"), f"datasets:{tmp_path / 'saved'}", f"datasets:{tmp_path / 'saved'}:train:image"):
        images = open_images(source, tmp_path)
        assert (len(images), images.classes, images.name(2)) == (3, ("cat", "dog"), "row 2")
        assert images.labels is not None
        assert images.labels.tolist() == [1, 0, 1]
        image = images.load(np.int64(2))
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (8, 6), (2, 2, 2))
    assert not is_dataset(str(tmp_path))


def test_a_saved_split(tmp_path: Path) -> None:
    saved = str(tmp_path / "saved")
    datasets.DatasetDict(train=rows([0, 1]), test=rows([0, 1, 1])).save_to_disk(saved)
    assert [len(open_dataset(source)) for source in (saved, f"datasets:{saved}", f"datasets:{saved}:test")] == [2, 2, 3]
    with pytest.raises(SourceError, match=r"cannot be opened: it has no split val, but train, test\."):
        open_dataset(f"datasets:{saved}:val")
    rows([0], split="test").save_to_disk(tmp_path / "test")
    assert len(open_dataset(str(tmp_path / "test"))) == 1


def test_the_digest_is_of_the_rows_and_not_of_the_place(tmp_path: Path) -> None:
    rows([1, 0, 1]).save_to_disk(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "copy")
    rows([1, 0, 0]).save_to_disk(tmp_path / "other")
    first, copied, other = (open_dataset(str(tmp_path / name)).digest for name in ("saved", "copy", "other"))
    assert first == copied != other


@pytest.mark.filterwarnings("default")  # the library opens files that it does not close
def test_what_the_library_loads(tmp_path: Path) -> None:
    for grey in range(4):
        file = tmp_path / "pictures" / "train" / ("cat", "dog")[grey % 2] / f"{grey}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(grey))
    images = open_dataset(f"datasets:{tmp_path / 'pictures'}")
    assert images.labels is not None
    greys = [images.load(number).getpixel((0, 0)) for number in range(4)]
    assert sorted(greys) == [(grey,) * 3 for grey in range(4)]
    assert [grey[0] % 2 for grey in greys] == images.labels.tolist()
    assert len(open_dataset(f"datasets:{tmp_path / 'pictures'}:train[:50%]")) == 2
    (tmp_path / "pictures" / "train" / "cat" / "0.png").unlink()
    with pytest.raises(ImageError, match="no such file"):
        images.load(0)


@pytest.mark.parametrize("labels", [[0, -1], [0, None]])
def test_hidden_labels_are_none(labels: list[int | None], tmp_path: Path) -> None:
    rows(labels).save_to_disk(tmp_path / "saved")
    images = open_dataset(str(tmp_path / "saved"))
    assert (images.labels, images.classes) == (None, ())


def test_broken_images(tmp_path: Path) -> None:
    cells = [{"bytes": b"no image", "path": None}, None]
    kinds = datasets.Features({"image": datasets.Image()})
    saved = datasets.Dataset.from_dict({"image": cells}, kinds)
    saved.save_to_disk(tmp_path / "saved")
    images = open_dataset(str(tmp_path / "saved"))
    assert images.labels is None
    for number, reason in enumerate(("no image", "the row has no image")):
        with pytest.raises(ImageError, match=reason):
            images.load(number)


def test_what_is_no_data_set_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    two = rows([0]).add_column("second", [{"bytes": encoded(0), "path": None}]).cast_column("second", datasets.Image())
    two.save_to_disk(tmp_path / "two")
    for name, message in (
        ("text", r"none of its columns \(text\) is of the type Image"),
        ("two", r"datasets:NAME:SPLIT:image \(it has image, second\)"),
        ("two:train:third", r"datasets:NAME:SPLIT:image \(it has image, second\)"),
        ("two:train:", "names no data set; write datasets:NAME"),
        ("nowhere", "cannot be opened: "),
    ):
        with pytest.raises(SourceError, match=message):
            open_dataset(f"datasets:{tmp_path / name}")
    assert len(open_dataset(f"datasets:{tmp_path / 'two'}:train:second")) == 1
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match="datasets:any needs the package datasets, which is not here: pip install datasets"):
        open_dataset("datasets:any")
