"""Images become one vector each by a protocol's own rule, kept on disk piece by piece."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from ibot_hub.devices import own_cores
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.images import decode
from ibot_hub.listing import Entry
from ibot_hub.sources import file_state
from ibot_hub.writing import whole

PIECE = 128  # images whose vectors are one file: what an interruption costs at most


@dataclass(frozen=True)
class Seen:
    """An image, or the part of it that is looked at."""

    entry: Entry
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom in its pixels


def vectors(
    images: Sequence[Seen],
    prepare: Callable[[Image], Tensor],
    describe: Callable[[Tensor], Tensor],
    cache: Path,
    facts: Mapping[str, Any],
    workers: int | None = None,
) -> Tensor:
    """float32 [N, F], a row an image; the same call after an interruption goes on where it stopped.

    Args:
        images: what is looked at, in order.
        prepare: RGB image -> tensor, on threads.
        describe: that tensor -> vector [F].
        cache: the folder for the pieces; each set of images, as their files are now, and each way to
            describe them, has a folder of its own in it.
        facts: all that decides what the vectors are, but the images: weights, sizes, precision.
        workers: threads that decode images; default one a core.

    Raises:
        ImageError: an image that cannot be read or is too small; StoreError: the cache cannot be written; UsageError: a vector that is
        not finite.
    """
    seen = [[asdict(image), file_state(image.entry.location)] for image in images]
    digest = hashlib.sha256(json.dumps([dict(facts), seen]).encode()).hexdigest()
    folder = cache / f"vectors-{digest[:16]}"
    pieces = []
    with (
        ThreadPoolExecutor(workers or own_cores(), thread_name_prefix="decode") as threads,
        tqdm(total=len(images), unit="img", desc="describing", file=sys.stderr, disable=None) as bar,
    ):
        for start in range(0, len(images), PIECE):
            path, part = folder / f"{start:08d}.npy", images[start : start + PIECE]
            if path.exists():
                piece = torch.from_numpy(np.load(path))
                bar.update(len(part))
            else:
                rows = []
                for image, tensor in zip(part, threads.map(lambda image: _prepared(image, prepare), part), strict=True):
                    rows.append(_described(image, tensor, describe))
                    bar.update()
                piece = torch.stack(rows)
                with whole(path) as partial, partial.open("wb") as stream:
                    np.save(stream, piece.numpy())
            pieces.append(piece)
    return torch.cat(pieces)


def _prepared(image: Seen, prepare: Callable[[Image], Tensor]) -> Tensor:
    try:
        picture = decode(image.entry.read())
        if image.box:
            left, top, right, bottom = (round(side) for side in image.box)
            box = (max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height))
            if box[0] >= box[2] or box[1] >= box[3]:
                raise ImageError(f"the box {image.box} does not lie in its {picture.width} x {picture.height} pixels")
            picture = picture.crop(box)
        return prepare(picture)
    except ImageError as error:
        raise ImageError(f"{image.entry.shown}: {error}") from error


def _described(image: Seen, tensor: Tensor, describe: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        row = describe(tensor).float().cpu()
    except UsageError as error:  # of the network: less than a patch
        raise ImageError(f"{image.entry.shown}: {error}") from error
    if not row.isfinite().all():
        raise UsageError(f"The vector of {image.entry.shown} is not finite: the weights or the precision are wrong.")
    return row
