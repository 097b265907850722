"""A person's pictures on disk."""

from pathlib import Path

import pytest
from PIL import Image

from ibot_demo import workspace
from ibot_demo.limits import MAX_BYTES
from ibot_demo.workspace import PICTURES, fill, gone_on_failure, remove
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


@pytest.mark.parametrize(("name", "own"), [
    ("..", "picture.png"), ("", "picture.png"), ("\0", "picture.png"), ("cat", "cat.png"), ("cat.exe", "cat.png"), ("cat.JPG", "cat.JPG"),
    ("a" * 300 + ".jpg", "a" * 200 + ".jpg"), ("\N{CAT}" * 99 + ".webp", "\N{CAT}" * 50 + ".webp"),
])  # fmt: skip
def test_a_name_that_no_file_should_have(photos: Path, tmp_path: Path, name: str, own: str) -> None:
    folder = fill(tmp_path, [(str(photos / "coffee.jpg"), name)] * 2)
    second = Path(own)
    assert {path.name for path in (folder / PICTURES).iterdir()} == {own, f"{second.stem} 2{second.suffix}"}


def test_nothing_is_kept_of_a_failure(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(str(photos / "coffee.jpg"), "coffee.jpg")]
    folder = fill(tmp_path, files)
    with gone_on_failure(folder):
        assert folder.is_dir()
    assert folder.is_dir()
    with pytest.raises(KeyboardInterrupt), gone_on_failure(folder):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []

    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(workspace.shutil, "copyfile", full)
    with pytest.raises(OSError, match="no space"):
        fill(tmp_path, files)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_of_what_of_what_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ImageError, match=r"large\.jpg is larger"):
        fill(root, [(str(tmp_path / "large"), "large.jpg")])
    assert list(root.iterdir()) == []
