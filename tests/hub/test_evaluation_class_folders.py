"""The classes of a source are those of its folders, and any change of its images shows."""

import os
import tarfile
from pathlib import Path

import pytest

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.class_folders import check_classes, class_folder, read_classes
from ibot_hub.features.extraction import extract
from ibot_hub.loading import load
from tests.class_folders import write_classes


def test_classes_are_counted_by_names_alone(tmp_path: Path) -> None:
    """Whatever the source is; that an image is broken does not show yet."""
    folder = write_classes(tmp_path / "images", 2)
    (folder / "bee" / "0.png").unlink()
    (folder / "cat" / "1.png").write_bytes(b"no image")
    counts = {"ape": 2, "bee": 1, "cat": 2}
    assert read_classes(folder).images == counts
    listed = tmp_path / "images.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(folder.rglob("*.png"))))
    assert read_classes(listed).images == counts
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(folder, "images")
    assert list(read_classes(tmp_path / "images.tar").images.items()) == list(counts.items())


def test_features_have_the_classes_of_their_images(tmp_path: Path, golden: Path) -> None:
    folder = write_classes(tmp_path / "images", 1)
    model = load(golden / "vit_micro_checkpoint.pth", head=False)
    features = extract(model, folder, tmp_path / "features", size=32, device="cpu", workers=1).out
    read = read_classes(features)
    assert (read.source, read.images, read.state) == (str(features), {"ape": 1, "bee": 1, "cat": 1}, None)


def test_any_change_of_the_images_shows(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "images", 2)
    image = folder / "ape" / "0.png"
    states = [read_classes(folder).state]
    assert read_classes(folder).state == states[0]
    os.utime(image, ns=(0, 0))
    states.append(read_classes(folder).state)
    image.rename(folder / "ape" / "7.png")
    states.append(read_classes(folder).state)
    image.symlink_to(tmp_path / "gone")  # that it cannot be read is told when it is read
    states.append(read_classes(folder).state)
    assert len(set(states)) == len(states)


def test_what_has_no_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"No image found in .*empty\."):
        read_classes(tmp_path / "empty")
    with pytest.raises(SourceError, match="There is no "):
        read_classes(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for once in (tmp_path / "pipe", "-"):
        with pytest.raises(UsageError, match=r"can be read but once, .* write it to a file such as images\.txt"):
            read_classes(once)
    (tmp_path / "pipe").unlink()
    (tmp_path / "flat.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"flat\.png of .* is in no class folder"):
        read_classes(tmp_path)


def test_two_sides_must_fit() -> None:
    check_classes(["ape", "bee"], ["bee"], "train", "val")
    with pytest.raises(UsageError, match=r"Class 'cow' has images in val, but none in train\."):
        check_classes(["ape", "bee"], ["bee", "cow"], "train", "val")
    with pytest.raises(UsageError, match="Class 'cow' and 1 more have images in val"):
        check_classes(["ape", "bee"], ["cow", "dog"], "train", "val")
    with pytest.raises(UsageError, match="All images of train are in one class folder, 'ape'; give the folder that holds"):
        check_classes(["ape"], ["ape"], "train", "val")


@pytest.mark.parametrize(
    ("source", "path", "expected"),
    [
        ("/gone/folder", "dog/1.jpg", "dog"),
        ("/gone/folder", "dog/images/1.jpg", "dog"),
        ("/gone/folder", "dog.target/1.jpg", "dog.target"),
        ("/gone/folder", "part-00.tar/dog/1.jpg", "dog"),
        ("/gone/folder", "part-00.tar/train/dog/1.jpg", "dog"),
        ("/gone/folder", "dog/part-00.tar/1.jpg", "dog"),
        ("/gone/images.txt", "data/train/dog/1.jpg", "dog"),
        ("/gone/images.txt", "/data/train/dog/1.jpg", "dog"),
        ("-", "../train/dog/1.jpg", "dog"),
        ("/gone/images.tar", "images.tar/train/dog/1.jpg", "dog"),
        ("/gone/part-{00..12}.tar", "part-00.tar/dog/1.jpg", "dog"),
        ("/gone/folder", "1.jpg", None),
        ("/gone/images.txt", "/1.jpg", None),
        ("-", "./1.jpg", None),
        ("/gone/images.tar", "images.tar/1.jpg", None),
    ],
)
def test_the_class_of_a_path(source: str, path: str, expected: str | None) -> None:
    if expected is not None:
        assert class_folder(path, source) == expected
        return
    with pytest.raises(UsageError, match=f"{path} of {source} is in no class folder"):
        class_folder(path, source)


def test_a_source_that_is_there_tells_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("")
    (tmp_path / "folder.txt").mkdir()
    assert class_folder("a/b/1.jpg", tmp_path / "names") == "b"
    assert class_folder("a/b/1.jpg", tmp_path / "folder.txt") == "a"
