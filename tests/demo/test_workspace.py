"""A person's pictures on disk."""

from pathlib import Path

import pytest
from PIL import Image

from ibot_demo.limits import MAX_BYTES
from ibot_demo.workspace import PICTURES, fill, remove
from ibot_hub.errors import ImageError


def test_names_are_kept_apart_and_stay_inside(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("L", (8, 8), index).save(tmp_path / str(index), "PNG")
    root = tmp_path / "root"
    root.mkdir()
    names = ("cat.jpg", "cat.jpg", ".cat.jpg")
    folder = fill(root, [(str(tmp_path / str(index)), name) for index, name in enumerate(names)])
    assert folder.parent == root
    found = {path.name: path.read_bytes() for path in (folder / PICTURES).iterdir()}
    assert found == {name: (tmp_path / str(index)).read_bytes() for index, name in enumerate(("cat.jpg", "cat 2.jpg", "cat 3.jpg"))}
    remove(folder)
    remove(None)
    assert list(root.iterdir()) == []


def test_nothing_is_kept_of_what_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ImageError, match=r"large\.jpg is larger"):
        fill(root, [(str(tmp_path / "large"), "large.jpg")])
    assert list(root.iterdir()) == []
