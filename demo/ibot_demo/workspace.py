"""A folder with a person's own pictures, and what is made of them: gone with the session."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ibot_demo.limits import picture
from ibot_hub.images import image_extensions

PICTURES = "pictures"  # the folder's name in the Python that is shown too
LONGEST = 200  # bytes of a name without its extension; a file system takes 255


def fill(root: Path, files: Sequence[tuple[str, str]]) -> Path:
    """A new folder below `root` with copies of `files`, (path, name) each, in its folder `pictures`, under names of their own.

    Raises `ImageError` for one that cannot be decoded, or is too large; nothing is left then.
    """
    for path, name in files:
        picture(path, name)
    folder = Path(tempfile.mkdtemp(dir=root))
    with gone_on_failure(folder):
        (folder / PICTURES).mkdir()
        for path, name in files:
            shutil.copyfile(path, _free(folder / PICTURES / _plain(name)))
    return folder


@contextmanager
def gone_on_failure(folder: Path) -> Iterator[None]:
    """Work on what `fill` made; the folder goes if the work fails, whatever the reason."""
    try:
        yield
    except BaseException:
        remove(folder)
        raise


def remove(folder: Path | None) -> None:
    """Delete what `fill` made; None is nothing."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _plain(name: str) -> str:
    """The name as a file may have it that `ibot` finds in a folder: visible, not too long, with the extension of a picture."""
    path = Path("".join(letter for letter in name if letter.isprintable()))
    stem = path.stem.strip(".").encode("utf-8", "ignore")[:LONGEST].decode("utf-8", "ignore")
    return (stem or "picture") + (path.suffix if path.suffix.lower() in image_extensions() else ".png")


def _free(path: Path) -> Path:
    """The path, or where it is taken the same with a number: two pictures may have one name."""
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem} {number}")
        number += 1
    return free
