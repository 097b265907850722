"""What a command's -o may be, and what is written there."""

from pathlib import Path

import pytest
from PIL import Image

from ibot_cli.pictures import check_picture, write_picture
from ibot_hub.errors import UsageError


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_a_picture_is_written_in_the_format_of_its_name(tmp_path: Path, name: str) -> None:
    check_picture(tmp_path / name)
    write_picture(Image.new("RGB", (3, 2), "red"), tmp_path / name)
    write_picture(Image.new("RGB", (4, 2), "red"), tmp_path / name)  # pictures are made again
    with Image.open(tmp_path / name) as written:
        assert written.size == (4, 2)
        assert written.format in ("PNG", "JPEG", "WEBP")


@pytest.mark.parametrize("name", ["a", "a.txt", "a.psd"])  # Pillow reads .psd and cannot write it
def test_a_name_without_a_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} names no format of pictures; call it \.png, \.jpg or \.webp\."):
        check_picture(tmp_path / name)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no folder .*nowhere to write a\.png in; make it first\."):
        check_picture(tmp_path / "nowhere" / "a.png")


def test_a_place_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UsageError, match=r"Cannot write .*a\.png: Is a directory\."):
        write_picture(Image.new("RGB", (3, 2)), tmp_path / "a.png")


def test_a_picture_too_large_for_its_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 x 16384 pixels do not go into a\.webp: .*; \.png has no such limit\."):
        write_picture(Image.new("RGB", (1, 16384)), tmp_path / "a.webp")
