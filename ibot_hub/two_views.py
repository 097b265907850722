"""Two augmented views of one image, and where their points lie in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms import functional

from ibot_hub.images import ImageLike, as_images, to_rgb

SCALE = (0.4, 1.0)  # share of the image's area
RATIO = (3 / 4, 4 / 3)  # width / height
ATTEMPTS = 10  # to find a box that fits into the image
FLIP, JITTER, GREY = 0.5, 0.8, 0.2  # probabilities
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class View:
    """A box of an image, resized to a square, perhaps flipped and in other colours."""

    image: Image.Image  # RGB, side x side
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the image
    flipped: bool  # left to right

    def in_image(self, points: Floats) -> Floats:
        """[..., 2] (x, y) in pixels of the view -> [..., 2] in pixels of the image."""
        left, top, right, bottom = self.box
        x, y = np.moveaxis(points / self.image.size, -1, 0)
        return np.stack([left + (1 - x if self.flipped else x) * (right - left), top + y * (bottom - top)], axis=-1)


@dataclass(frozen=True, eq=False)
class Views:
    """Two views of one image."""

    first: View
    second: View
    width: int  # of the image, pixels
    height: int


def two_views(image: ImageLike, seed: int | Sequence[int] = 0, side: int = 224) -> Views:
    """Two views as the official correspondence script draws them: those of pre-training without blur and solarisation.

    A random box (40 to 100 % of the area, bicubic), flipped one time in two, colours jittered four times in five, grey one in five.

    Args:
        image: a path, a PIL image or uint8 [height, width, 3].
        seed: the same seed, the same views.
        side: of both views in pixels.
    """
    rng = np.random.default_rng(seed)
    (given,) = as_images([image])
    pixels = to_rgb(given)
    return Views(_view(pixels, side, rng), _view(pixels, side, rng), *pixels.size)


def _view(image: Image.Image, side: int, rng: np.random.Generator) -> View:
    box = random_box(*image.size, rng, SCALE)
    # cropped first, so that no pixel beyond the box takes part in the filter
    view = image.crop(box).resize((side, side), Image.Resampling.BICUBIC)
    flipped = rng.random() < FLIP
    if flipped:
        view = functional.hflip(view)
    if rng.random() < JITTER:
        view = _jittered(view, rng)
    if rng.random() < GREY:
        view = functional.rgb_to_grayscale(view, num_output_channels=3)
    return View(view, box, flipped)


def random_box(width: int, height: int, rng: np.random.Generator, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of an image, of a share of its area within `scale`, as torchvision's RandomResizedCrop.

    It is the first attempt that fits, else the centre, as much of it as the ratio allows.
    """
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(*np.log(RATIO)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jittered(view: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue changed, in random order."""
    changes = [
        (functional.adjust_brightness, rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)),
        (functional.adjust_contrast, rng.uniform(1 - CONTRAST, 1 + CONTRAST)),
        (functional.adjust_saturation, rng.uniform(1 - SATURATION, 1 + SATURATION)),
        (functional.adjust_hue, rng.uniform(-HUE, HUE)),
    ]
    for index in rng.permutation(len(changes)):
        change, amount = changes[index]
        view = change(view, amount)
    return view
