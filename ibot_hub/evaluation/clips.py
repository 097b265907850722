"""Clips as frames and masks, in the folders of DAVIS."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ibot_hub.errors import ImageError, SourceError, UsageError
from ibot_hub.images import BROKEN, image_extensions, opened

FRAMES, MASKS, SPLITS = "JPEGImages/480p", "Annotations/480p", "ImageSets/2017"
SPLIT = "val"
VOID = 255  # in a mask: pixels that nobody has decided about

Labels = npt.NDArray[np.uint8]  # [height, width], the number of an object, 0 the background, VOID undecided


@dataclass(frozen=True)
class MaskedClip:
    """A moving picture, and what is known of the objects in it."""

    name: str
    frames: tuple[Path, ...]  # in order
    masks: Mapping[int, Path]  # frame -> its mask; the first frame has one


def read_clips(folder: str | Path, split: str | None = None) -> list[MaskedClip]:
    """The clips of a folder in the layout of DAVIS: `JPEGImages/480p/NAME/*.jpg` and `Annotations/480p/NAME/*.png`.

    A mask belongs to the frame of its name. Not every frame needs one, but the first does.

    Args:
        split: names a list of clips, `ImageSets/2017/SPLIT.txt`; default: `val` where there is one, else all clips.

    Raises:
        SourceError: no such folders, lists or clips; UsageError: a clip without a mask of its first frame.
    """
    root = Path(folder)
    for part in (FRAMES, MASKS):
        if not (root / part).is_dir():
            raise SourceError(f"There is no {root / part}: clips are looked for in the layout of DAVIS, {FRAMES}/NAME and {MASKS}/NAME.")
    listed = root / SPLITS / f"{split or SPLIT}.txt"
    if listed.is_file():
        names = listed.read_text(encoding="utf-8").split()
    elif split is None:
        names = sorted(path.name for path in (root / FRAMES).iterdir() if path.is_dir() and not path.name.startswith("."))
    else:
        raise SourceError(f"There is no {listed}, the list of clips that --split {split} names.")
    if not names:
        raise SourceError(f"{listed if listed.is_file() else root / FRAMES} names no clip.")
    return [_clip(root, name) for name in names]


def read_mask(path: Path, size: tuple[int, int]) -> Labels:
    """The objects in a mask of that width and height: the indices of a palette image, or the levels of a grey one.

    A grey mask that is black and white alone has one object, which is white.

    Raises ImageError for a file that cannot be read, one in other colours, or of another size.
    """
    try:
        with opened(path) as stream:
            data = stream.read()
        image = Image.open(io.BytesIO(data))
        image.load()
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except BROKEN as error:
        raise ImageError(f"{path}: broken or no image ({error})") from error
    if image.mode not in ("P", "L", "1"):
        raise ImageError(f"{path} is no mask: it is {image.mode}; a mask has a palette or is grey, an object's number in each pixel.")
    if image.size != size:
        raise ImageError(f"{path} is {image.width} x {image.height}, and its frame {size[0]} x {size[1]}.")
    labels: Labels = np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
    if image.mode != "P" and set(np.unique(labels).tolist()) <= {0, VOID}:
        labels = (labels > 0).astype(np.uint8)
    return labels


def objects_of(labels: Labels) -> tuple[int, ...]:
    """The numbers of the objects in a mask."""
    return tuple(int(number) for number in np.unique(labels) if number not in (0, VOID))


def _clip(root: Path, name: str) -> MaskedClip:
    frames = _images(root / FRAMES / name)
    masks = {path.stem: path for path in _images(root / MASKS / name)}
    if frames[0].stem not in masks:
        raise UsageError(f"{root / MASKS / name} has no mask of the first frame, {frames[0].stem}.png, and it is what is carried on.")
    return MaskedClip(name, frames, {index: masks[path.stem] for index, path in enumerate(frames) if path.stem in masks})


def _images(folder: Path) -> tuple[Path, ...]:
    wanted = image_extensions()
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in wanted and not path.name.startswith("."))
    if not found:
        raise SourceError(f"{folder} holds no images.")
    return tuple(found)
