"""All images of a source, decoded once and kept on the device."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ibot_hub.errors import ImageError, SourceError
from ibot_training.data import Images, Numbers

AT_ONCE = 1024  # images on their way to the device


@dataclass(frozen=True, eq=False)
class Resident:
    """Images as one tensor; those that cannot be read are not among them."""

    pixels: Tensor  # uint8 [N, 3, side, side], on the device
    labels: Numbers | None  # [N]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, number: int) -> Image.Image:
        """One image as it is kept."""
        return Image.fromarray(self.pixels[number].permute(1, 2, 0).cpu().numpy())


def keep_on_device(
    images: Images, side: int, device: torch.device, workers: int, skipped: Callable[[str, str], None]
) -> Resident:  # fmt: skip
    """Decode all images in threads and squash them to squares of `side` pixels; each broken one is told to `skipped`, name and reason.

    Raises `SourceError` if none can be read.
    """
    pixels = torch.empty(len(images), 3, side, side, dtype=torch.uint8, device=device)
    kept: list[int] = []

    def squared(number: int) -> npt.NDArray[np.uint8] | ImageError:
        try:
            return _square(images.load(number), side)
        except ImageError as error:
            return error

    with (
        ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool,
        tqdm(total=len(images), unit="img", desc="decoding images to keep", file=sys.stderr, disable=None) as bar,
    ):
        for start in range(0, len(images), AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, len(images)))
            squares = []
            for number, square in zip(numbers, pool.map(squared, numbers), strict=True):
                if isinstance(square, ImageError):
                    skipped(images.name(number), str(square))
                else:
                    squares.append(square)
                    kept.append(number)
            if squares:
                pixels[len(kept) - len(squares) : len(kept)] = torch.from_numpy(np.stack(squares)).to(device)
            bar.update(len(numbers))
    if not kept:
        raise SourceError(f"None of the {len(images)} images can be read; the reasons stand above.")
    return Resident(pixels[: len(kept)], None if images.labels is None else images.labels[kept], images.classes)


def _square(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """[3, side, side]"""
    fitted = image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(fitted).transpose(2, 0, 1)
