"""What is written whole is there at the end, and nothing of it is there after an error."""

import errno
import os
import re
from pathlib import Path

import pytest

from ibot_hub.errors import StoreError
from ibot_hub.writing import whole


def test_a_file_and_its_folder_appear_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    with whole(target) as partial:
        partial.write_text("text")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    assert target.read_text() == "text"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole(target) as partial:
        partial.write_text("\udcff", encoding="utf-8")  # the file is there by then
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert target.read_text() == "old"


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with whole(target) as partial:
        left = partial
        partial.write_text("new")
    left.write_text("half of something long")
    with whole(target) as partial:
        partial.write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
    assert target.read_text() == "newer"


def test_where_it_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    said = re.escape(f"{tmp_path}/file/a.txt cannot be written (File exists); free space, or choose another --out.")
    with pytest.raises(StoreError, match=said), whole(tmp_path / "file" / "a.txt"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"folder cannot be written \(Is a directory\)"), whole(tmp_path / "folder") as partial:
        partial.touch()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # a network file system tells it as late as this
    with pytest.raises(StoreError, match=r"late cannot be written \(No space left on device\)"), whole(tmp_path / "late") as partial:
        partial.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
