"""Images by number: from folders and shards, with their classes, listed once a run, and in an order of their own."""

import os
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ibot_training.data
from ibot_hub.errors import ImageError, SourceError, StoreError
from ibot_hub.listing import write_listing
from ibot_training.data import epoch_order, open_images, steps_per_epoch


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Five images in two classes, each of a grey of its own."""
    names = ("dog/3.png", "cat/1.png", "cat/deeper/2.png", "dog/4.png", "cat/0.png")
    for name in names:
        file = tmp_path / "classes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = int(file.stem)
        Image.new("RGB", (8, 6), (grey, grey, grey)).save(file)
    return tmp_path / "classes"


def pack(shard: Path, root: Path, *parts: str) -> str:
    with tarfile.open(shard, "w") as tar:
        for part in parts or [file.name for file in root.iterdir()]:
            tar.add(root / part, part)
    return str(shard)


def test_images_come_by_number(classes: Path, run: Path) -> None:
    images = open_images(str(classes), run)
    assert len(images) == 5
    assert [images.name(number) for number in range(5)] == ["cat/0.png", "cat/1.png", "cat/deeper/2.png", "dog/3.png", "dog/4.png"]
    for number in (4, 0, 2):
        image = images.load(number)
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (8, 6), (number,) * 3)


def test_what_cannot_be_decoded_says_why(classes: Path, run: Path) -> None:
    (classes / "cat" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"\xff\xd8\xff no more")
    images = open_images(str(classes), run)
    (classes / "dog" / "4.png").unlink()  # after the listing
    broken = next(number for number in range(6) if "caf" in images.name(number))
    assert images.name(broken) == "cat/caf\\xe9.jpg"
    with pytest.raises(ImageError, match="broken JPEG"):
        images.load(broken)
    with pytest.raises(ImageError, match="no such file"):
        images.load(5)


def test_the_digest_follows_the_names_and_not_the_place(classes: Path, tmp_path: Path) -> None:
    shutil.copytree(classes, tmp_path / "copy")
    first, copied = open_images(str(classes), tmp_path / "first"), open_images(str(tmp_path / "copy"), tmp_path / "second")
    assert first.digest == copied.digest
    (classes / "cat" / "0.png").rename(classes / "cat" / "9.png")
    assert open_images(str(classes), tmp_path / "third").digest != first.digest


def test_shards_hold_the_same_images(classes: Path, run: Path, tmp_path: Path) -> None:
    pack(tmp_path / "some-0.tar", classes, "cat/0.png", "dog/3.png")
    pack(tmp_path / "some-1.tar", classes, "cat/1.png", "dog/4.png", "cat/deeper/2.png")
    images = open_images(str(tmp_path / "some-{0..1}.tar"), run)
    assert [images.name(number) for number in (0, 4)] == ["some-0.tar/cat/0.png", "some-1.tar/cat/deeper/2.png"]
    assert [images.load(number).getpixel((0, 0)) for number in range(5)] == [(grey,) * 3 for grey in (0, 3, 1, 4, 2)]
    assert (images.labels is not None and images.labels.tolist(), images.classes) == ([0, 1, 0, 1, 0], ("cat", "dog"))


def test_the_first_folder_is_the_class(classes: Path, run: Path) -> None:
    images = open_images(str(classes), run)
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert (images.labels.dtype, images.labels.tolist()) == (np.int64, [0, 0, 0, 1, 1])


def test_classes_are_sorted_whatever_the_order_of_the_images(classes: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classes)
    names = ["dog/3.png", "cat/1.png", "emu/5.png", "cat/0.png"]
    Path("list.txt").write_text("\n".join(names))
    images = open_images("list.txt", run)
    assert images.labels is not None
    assert [images.classes[label] for label in images.labels] == [name[:3] for name in names]
    assert images.classes == ("cat", "dog", "emu")


def test_folders_of_shards_are_no_classes(classes: Path, run: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("cat", "dog"):
        pack(shards / f"{name}.tar", classes / name)
    assert open_images(str(shards), run).labels is None


@pytest.mark.parametrize("move", [("dog/4.png", "4.png"), ("dog", "cat/dog")])
def test_one_folder_or_an_image_outside_of_folders_is_no_class(move: tuple[str, str], classes: Path, run: Path) -> None:
    (classes / move[0]).rename(classes / move[1])
    images = open_images(str(classes), run)
    assert (len(images), images.labels, images.classes) == (5, None, ())


def test_a_run_lists_its_source_once(classes: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was started with stays, though the folder grows, and no folder is read again."""
    open_images(str(classes), run)
    Image.new("RGB", (8, 6)).save(classes / "cat" / "new.png")
    monkeypatch.chdir(classes.parent)
    monkeypatch.setattr(os, "scandir", None)
    assert len(open_images("classes", run)) == 5
    assert [file.name for file in run.iterdir() if not file.name.startswith(".")] == ["images.parquet"]


def test_a_run_keeps_to_its_source(classes: Path, run: Path) -> None:
    open_images(str(classes), run)
    with pytest.raises(SourceError, match=rf"The run in {run} has the images of {classes}, not of {classes}/cat; go on with those"):
        open_images(f"{classes}/cat", run)


def test_the_folder_of_a_run_need_not_be_there(classes: Path, tmp_path: Path) -> None:
    assert len(open_images(str(classes), tmp_path / "new" / "run")) == 5


def test_one_of_several_processes_lists(classes: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []

    def slowly(source: str, file: Path) -> None:
        listed.append(source)
        threading.Event().wait(0.2)
        write_listing(source, file)

    monkeypatch.setattr(ibot_training.data, "write_listing", slowly)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(len(open_images(str(classes), run)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counts, listed) == ([5, 5, 5], [str(classes)])


def test_what_is_no_source(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("", "an empty name"),
        ("nowhere", "There is no nowhere"),
        (str(tmp_path / "empty"), "No image found in .*empty"),
    ):
        with pytest.raises(SourceError, match=message):
            open_images(source, run)
    (run / "images.parquet").write_bytes(b"no listing")
    with pytest.raises(StoreError, match="remove it to list the source again"):
        open_images(str(tmp_path / "empty"), run)


def test_too_few_images_for_a_batch() -> None:
    assert [steps_per_epoch(count, 4) for count in (4, 7, 8)] == [1, 1, 2]
    with pytest.raises(SourceError, match=r"There are 3 images, too few for a batch of 4: set optimiser\.batch_size to 3 or less"):
        steps_per_epoch(3, 4)


def test_an_epoch_takes_each_image_once_in_an_order_of_its_own() -> None:
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert tuple(epoch_order(0, 1, 50)) == orders[1]
