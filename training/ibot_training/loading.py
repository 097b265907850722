"""One image for each place in a batch, read by threads; a broken one is replaced."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from ibot_hub.devices import own_cores
from ibot_hub.errors import ImageError, SourceError
from ibot_training.data import Images
from ibot_training.recipe import Crops, Recipe
from ibot_training.reference import crops_of
from ibot_training.views import RATIO, draw_views

ATTEMPTS = 20  # broken images in a row that are borne

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a thread made of one image."""

    number: int  # of the image that was taken
    broken: tuple[tuple[str, str], ...]  # those that could not be: name, reason
    pixels: list[Pixels]  # crops [3, S, S], global ones first; or the image alone, [h, w, 3], perhaps with a fourth that means nothing
    rng: np.random.Generator  # of its place; what comes next is drawn from it


Loader = Callable[[Images, Recipe, int, np.random.Generator], Loaded]


def generator(seed: int, step: int, position: int) -> np.random.Generator:
    """The random numbers of one place in the batch of one step, whichever process or thread asks.

    Philox counts, so that streams of two places never meet; it is ready sooner than a generator whose seed must be mixed first.
    """
    return np.random.Generator(np.random.Philox(key=seed | step << 64, counter=position << 192))


def load_crops(images: Images, recipe: Recipe, number: int, rng: np.random.Generator) -> Loaded:
    """The reference pipeline: crops that Pillow cut and changed. Raises `SourceError` where no image can be read."""
    number, image, broken = _decoded(images, number, rng)
    views = draw_views(recipe.crops, recipe.augmentation, (image.height, image.width), rng)
    return Loaded(number, broken, crops_of(image, views, recipe.crops), rng)


def load_image(images: Images, recipe: Recipe, number: int, rng: np.random.Generator) -> Loaded:
    """The batched pipeline: the whole image, a large one reduced as far as no crop is enlarged. Raises `SourceError` as above."""
    number, image, broken = _decoded(images, number, rng)
    factor = min(image.size) // enough_pixels(recipe.crops)
    return Loaded(number, broken, [_pixels(image.reduce(factor) if factor > 1 else image)], rng)


def enough_pixels(crops: Crops) -> int:
    """The short side in pixels with which no crop that can be drawn is enlarged; 518 with the paper's crops."""
    kinds = [(crops.global_size, crops.global_scale), (crops.local_size, crops.local_scale)][: 1 + bool(crops.local_count)]
    return int(np.ceil(max(size / np.sqrt(scale[0] / RATIO) for size, scale in kinds)))


def decoders(recipe: Recipe) -> int:
    """How many threads decode in this process."""
    return recipe.run.workers or max(1, own_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _decoded(images: Images, number: int, rng: np.random.Generator) -> tuple[int, Image.Image, tuple[tuple[str, str], ...]]:
    """Image `number`, or the first that can be read of those drawn in its place, and those that could not."""
    broken: list[tuple[str, str]] = []
    while len(broken) < ATTEMPTS:
        try:
            return number, images.load(number), tuple(broken)
        except ImageError as error:
            broken.append((images.name(number), str(error)))
            number = int(rng.integers(len(images)))
    name, reason = broken[-1]
    raise SourceError(f"{ATTEMPTS} images that were drawn one after the other cannot be read, the last of them {name}: {reason}.")


def _pixels(image: Image.Image) -> Pixels:
    """[h, w, 4], which is Pillow's own memory, or [h, w, 3], ten times slower, where that is in several pieces."""
    try:
        memory: Pixels = pa.array(image).values.to_numpy()
    except ValueError:  # over 4 megapixels
        return np.asarray(image)
    return memory.reshape(image.height, image.width, 4)
