"""A folder with a person's own pictures, and what is made of them: gone with the session."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ibot_demo.limits import picture

PICTURES = "pictures"  # the folder's name in the Python that is shown too


def fill(root: Path, files: Sequence[tuple[str, str]]) -> Path:
    """A new folder below `root` with copies of `files`, (path, name) each, in its folder `pictures`, under names of their own.

    Raises `ImageError` for one that cannot be decoded, or is too large.
    """
    for path, name in files:
        picture(path, name)
    folder = Path(tempfile.mkdtemp(dir=root))
    (folder / PICTURES).mkdir()
    for path, name in files:
        shutil.copyfile(path, _free(folder / PICTURES / name.lstrip(".")))
    return folder


def remove(folder: Path | None) -> None:
    """Delete what `fill` made; None is nothing."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _free(path: Path) -> Path:
    """The path, or where it is taken the same with a number: two pictures may have one name."""
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem} {number}")
        number += 1
    return free
