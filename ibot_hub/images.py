"""Decode and prepare images; a broken one is reported, never replaced."""

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow
import torch
from PIL import Image, ImageOps

from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.fit import Fit, crop_fit, nearest_multiple, whole_fit
from ibot_hub.options import Resize

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]

MAX_PIXELS = 178_956_970  # where Pillow stops by default: half a GiB as RGB
MAX_SIZE = 8192  # pixels; a ViT's work grows with its fourth power
MAX_ASPECT = 16  # with `keep`: the longest image is this many times as long as it is wide

# Ghostscript would have to run (EPS), Windows would have to draw (WMF), or Pillow has no decoder at all.
NOT_PIXELS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})

# What Pillow's plugins raise on bytes that are no valid image, found by fuzzing; `MemoryError` is not among them.
BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)

Image.init()  # loads every plugin now: doing it at the first unusual image is a race between threads


def image_extensions() -> frozenset[str]:
    """The extensions, lower case and with their dot, of the formats that `decode` reads."""
    readable = Image.OPEN.keys() - NOT_PIXELS
    return frozenset(extension for extension, kind in Image.registered_extensions().items() if kind in readable)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file at `path`; an `OSError` of opening or reading it becomes an `ImageError` whose reason names no path."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a name may hold bytes that are no UTF-8, or end in a slash
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise ImageError("a folder, not an image" if stat.S_ISDIR(mode) else "not a regular file")
        with open(path, "rb") as stream:  # noqa: PTH123
            yield stream
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except PermissionError as error:
        raise ImageError("no permission to read it") from error
    except OSError as error:
        raise ImageError(f"cannot be read: {os.strerror(error.errno).lower() if error.errno else 'input/output error'}") from error


def decode(source: str | os.PathLike[str] | bytes | BinaryIO) -> Image.Image:
    """The first frame of an image as RGB, turned as its EXIF orientation asks; see `to_rgb` for depth and transparency.

    Raises `ImageError` with one short reason, the same each time for the same bytes, if the image cannot be decoded.
    """
    if isinstance(source, bytes):
        return decode(io.BytesIO(source))
    if isinstance(source, str | os.PathLike):
        with opened(source) as stream:
            return decode(stream)
    image = _open(source)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"it claims {width} x {height} pixels, more than {MAX_PIXELS}: a decompression bomb?")
    with _reported(image.format):
        image.load()
        with suppress(*BROKEN):  # where the EXIF block is damaged, every viewer shows the pixels as they are stored
            image.getexif()
        image.info.pop("exif", None)  # the orientation is read by now, and writing the block back fails where a tag is odd
        ImageOps.exif_transpose(image, in_place=True)
    return to_rgb(image)


def _open(stream: BinaryIO) -> Image.Image:
    """What `Image.open` does, less its pixel check: that warns from half of `MAX_PIXELS` on, and a filter is not per thread."""
    prefix = stream.read(16)
    if not prefix:
        raise ImageError("the file is empty")
    prefix = prefix.ljust(16, b"\0")  # not every plugin bears a shorter one
    likely = None
    for kind in Image.ID:
        factory, accept = Image.OPEN[kind]
        if kind in NOT_PIXELS or (accept and accept(prefix) is not True):
            continue
        stream.seek(0)
        try:
            with _reported(kind):
                return factory(stream, "")
        except ImageError as error:
            likely = likely or (error if accept else None)
    raise likely or ImageError("no image that can be read, whatever its name says")


@contextmanager
def _reported(kind: str | None) -> Iterator[None]:
    """Turn what Pillow raises on broken bytes into an `ImageError` that says so in one line."""
    try:
        yield
    except BROKEN as error:
        message = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).split()) or type(error).__name__
        raise ImageError(f"broken {kind or 'image'}: {message[:200]}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB (itself, if it is RGB), as a viewer shows it.

    Transparency is composited on white. Integers of 16 bits (I;16, I) are divided by 257, never clipped. Floats (F) are read on
    the scale 0..1, 0..255 or 0..65535, the first that holds them. Values outside of 0..65535 are stretched from their minimum
    to their maximum. Raises `ImageError` for NaN and infinities, and for an image not yet decoded that turns out broken.
    """
    with _reported(image.format):
        image.load()  # an image that the caller opened may not have been decoded yet
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_grey(np.asarray(image)))
    with _reported(image.format):
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGB", image.size, "white")
            image.paste(layer, mask=layer)
        return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("it holds values that are not finite")
    if low < 0 or high > 65535:
        scaled = (values.astype(np.float64) - low) / ((high - low) or 1.0) * 255
    elif values.dtype.kind == "f":
        scaled = values * (255 / next(full for full in (1, 255, 65535) if high <= full))
    else:
        scaled = values / 257
    return np.rint(scaled).astype(np.uint8)


@dataclass(frozen=True)
class ImageTransform:
    """PIL image -> normalised tensor [3, H, W]; H and W are multiples of `patch`. Picklable, for anyone's DataLoader.

    crop    the official evaluation: the short side to `size` * 256 / 224 (bicubic), then the central `size` x `size`;
            `size` is rounded to the nearest multiple of `patch` first
    squash  to `size` x `size`, whatever the aspect
    keep    the short side to `size`, the long one by the aspect, both rounded to the nearest multiple of `patch`
    """

    size: int = 224  # pixels
    resize: Resize = "crop"
    patch: int = 16  # pixels
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of red, green, blue in 0..1
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE or self.patch < 1:
            raise UsageError(f"size is {self.size} and patch {self.patch}; both must be at least 1, and size at most {MAX_SIZE} pixels.")
        if self.resize not in get_args(Resize):
            raise UsageError(f"resize is {self.resize!r}; it must be one of {', '.join(get_args(Resize))}.")
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite([self.mean, self.std]).all() or min(self.std) <= 0:
            raise UsageError(f"mean is {self.mean} and std {self.std}; each needs three numbers, those of std above 0.")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """float32 [3, H, W]."""
        return self.normalise(self.pixels(image))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """uint8 [3, H, W]: fitted, not normalised. Raises `ImageError` where `keep` meets a side over 16 times the other."""
        # copied by numpy: torch would start a team of threads in each thread that decodes
        return torch.from_numpy(np.ascontiguousarray(self._fitted(to_rgb(image)).numpy()))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, H, W] on any device -> float32 of the same shape, there."""
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels / 255).sub_(mean).div_(std)

    def fit(self, width: int, height: int) -> Fit:
        """Where the patches of an image of this size lie. Raises `ImageError` where `keep` meets a side over 16 times the other."""
        side = nearest_multiple(self.size, 1, self.patch)
        if self.resize == "crop":
            return crop_fit(width, height, int(side * 256 / 224), side, self.patch)
        if self.resize == "squash":
            return whole_fit(width, height, (side, side), self.patch)
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ImageError(f"aspect ratio of {width} x {height} is over {MAX_ASPECT}: use --resize squash or crop")
        sides = [nearest_multiple(self.size * length, min(width, height), self.patch) for length in (width, height)]
        return whole_fit(width, height, (sides[0], sides[1]), self.patch)

    def _fitted(self, image: Image.Image) -> torch.Tensor:
        fit = self.fit(*image.size)
        if fit.out != fit.resized and max(fit.resized) > MAX_ASPECT * min(fit.resized):  # resizing 1 x 10000 whole would fill the memory
            return _cropped_first(image, fit)
        (left, top), (width, height) = fit.corner, fit.out
        return _resized(image, fit.resized[1], fit.resized[0])[:, top : top + height, left : left + width]


def _tensor(image: Image.Image) -> torch.Tensor:
    """uint8 [3 or 4, H, W], channels last in memory, the fourth without meaning; not to be written to."""
    try:
        pixels = torch.utils.dlpack.from_dlpack(pyarrow.array(image).values)  # Pillow's own memory: four bytes a pixel, nothing is copied
    except ValueError:  # over 4 megapixels Pillow's memory is in several pieces
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]
    return pixels.view(image.height, image.width, 4).permute(2, 0, 1)  # [H * W * 4] -> [4, H, W]


def _resized(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """uint8 [3, height, width]; torch's antialiased bicubic is faster than Pillow's and hardly ever over one grey level away."""
    return torch.nn.functional.interpolate(_tensor(image)[None], (height, width), mode="bicubic", antialias=True)[0, :3]


def _cropped_first(image: Image.Image, fit: Fit) -> torch.Tensor:
    """uint8 [3, side, side]: what resizing whole and cropping gives, within one grey level."""
    (x, y), (step_x, step_y) = fit.corner, (length / new for length, new in zip(image.size, fit.resized, strict=True))
    box = (x * step_x, y * step_y, min((x + fit.out[0]) * step_x, image.width), min((y + fit.out[1]) * step_y, image.height))
    return _tensor(image.resize(fit.out, Image.Resampling.BICUBIC, box))[:3]


def as_images(images: ImageLike | Sequence[ImageLike]) -> list[Image.Image]:
    """What `model(images)` takes, as a list: a path, a PIL image (as it is), a uint8 array H x W x 3 (RGB), or a list of these.

    Raises `UsageError` for anything else, `ImageError` with the path for a file that cannot be decoded.
    """
    several = images if isinstance(images, list | tuple) else [images]
    if not several:
        raise UsageError("The list of images is empty.")
    return [_as_image(image) for image in several]


def _as_image(image: object) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return decode(image)
        except ImageError as error:
            raise ImageError(f"{os.fsencode(image).decode('utf-8', 'backslashreplace')}: {error}") from error
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return Image.fromarray(image)
        found = f"a {image.dtype} array of shape {image.shape}"
    else:
        found = f"{type(image).__name__!r}"
    raise UsageError(f"An image is a path, a PIL image or a uint8 array of shape (H, W, 3), or several in a list; this is {found}.")
