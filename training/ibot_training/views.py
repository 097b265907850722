"""The random numbers of an image's views, drawn apart from the pixels they change."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ibot_training.recipe import Augmentation, Crops

ATTEMPTS = 10  # to find a box that fits into the image
RATIO = 4 / 3  # of the longer side of a box to the shorter, at most
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

# The columns of the random numbers of a crop.
AREA, LOG_RATIO = slice(0, ATTEMPTS), slice(ATTEMPTS, 2 * ATTEMPTS)
FACTORS, RADIUS = slice(2 * ATTEMPTS, 2 * ATTEMPTS + 4), 2 * ATTEMPTS + 4
RANGED = 2 * ATTEMPTS + 5  # columns so far: the others stay in 0..1
EVENTS, ORDER, CORNER = slice(RANGED, RANGED + 5), slice(RANGED + 5, RANGED + 9), slice(RANGED + 9, RANGED + 11)
COLUMNS = RANGED + 11

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Views:
    """What is done to C crops, global ones first; of one image [C, ...], of a batch [B, C, ...]."""

    box: Integers  # [..., 4] top, left, height, width in pixels of the image
    flip: Booleans  # [...]
    jitter: Booleans  # [...] whether factors are used
    factors: Floats  # [..., 4] brightness, contrast, saturation (1 changes nothing), hue in turns (0 changes nothing)
    order: Integers  # [..., 4] a permutation of the four, the first to be done first
    grey: Booleans  # [...]
    radius: Floats  # [...] standard deviation of the blur in pixels of the crop; 0: none
    solarise: Booleans  # [...]

    def __getitem__(self, index: Any) -> "Views":
        """Every array, indexed the same."""
        return Views(*(array[index] for array in vars(self).values()))


def draw_views(crops: Crops, augmentation: Augmentation, size: tuple[int, int], rng: np.random.Generator) -> Views:
    """The views [C] of one image of `size` (height, width) in pixels; takes equally many numbers from `rng` whatever the size.

    Boxes are those of torchvision's RandomResizedCrop; what differs between the first global crop, the others and local ones
    is as in the official code (facts 4.4).
    """
    return draw_batch(crops, augmentation, [size], [rng])[0]


def draw_batch(crops: Crops, augmentation: Augmentation, sizes: Sequence[tuple[int, int]], rngs: Sequence[np.random.Generator]) -> Views:
    """The views [B, C] of B images: row b is what `draw_views` gives for the size and generator of image b."""
    low, span, probability = _bounds(crops, augmentation)
    u = np.stack([rng.random((len(low), COLUMNS)) for rng in rngs])  # [B, C, COLUMNS] in [0, 1)
    ranged = low + span * u[..., :RANGED]
    events = u[..., EVENTS] < probability
    return Views(
        box=_boxes(np.array(sizes), ranged[..., AREA], ranged[..., LOG_RATIO], u[..., CORNER]),
        flip=events[..., 0],
        jitter=events[..., 1],
        factors=ranged[..., FACTORS],
        order=u[..., ORDER].argsort(-1),
        grey=events[..., 2],
        radius=ranged[..., RADIUS] * events[..., 3],
        solarise=events[..., 4],
    )


@cache
def _bounds(crops: Crops, augmentation: Augmentation) -> tuple[Floats, Floats, Floats]:
    """Low ends [C, RANGED] and widths [C, RANGED] of the ranges, and probabilities [C, 5] of the events."""
    a, ratio = augmentation, float(np.log(RATIO))
    shared = [(-ratio, ratio)] * ATTEMPTS + [(max(0.0, 1 - x), 1 + x) for x in (a.brightness, a.contrast, a.saturation)]
    shared += [(-a.hue, a.hue), a.blur_radius]
    ranges = [[scale] * ATTEMPTS + shared for scale in (crops.global_scale, crops.global_scale, crops.local_scale)]
    events = [[a.flip, a.jitter, a.grey, blur, solarise] for blur, solarise in zip(a.blur, a.solarise, strict=True)]
    kinds = np.repeat(range(3), (1, crops.global_count - 1, crops.local_count))  # [C]: first global, other global, local
    low, high = np.moveaxis(np.array(ranges)[kinds], -1, 0)
    return low, high - low, np.array(events)[kinds]


def _boxes(sizes: Integers, area: Floats, log_ratio: Floats, corner: Floats) -> Integers:
    """[B, C, 4] in images of `sizes` [B, 2]: the first attempt that fits, else the centre, as much of it as the ratio allows.

    `area` [B, C, ATTEMPTS] is a share of the image's, `log_ratio` the logarithm of width / height; `corner` [B, C, 2] in [0, 1).
    """
    root, stretch = np.sqrt(area * sizes.prod(1)[:, None, None]), np.exp(log_ratio / 2)
    sides = np.rint(np.stack([root / stretch, root * stretch], 2))  # [B, C, 2, ATTEMPTS] height, width
    fits = ((sides > 0) & (sides <= sizes[:, None, :, None])).all(2)  # [B, C, ATTEMPTS]
    first = fits.argmax(2)
    image, crop = np.arange(len(sizes))[:, None], np.arange(first.shape[1])
    found = fits[image, crop, first][..., None]  # [B, C, 1]
    central = np.minimum(sizes, np.rint(sizes[:, ::-1] * RATIO))[:, None]  # [B, 1, 2]
    side = np.where(found, sides[image, crop, :, first], central)  # [B, C, 2]
    room = sizes[:, None] - side
    return np.concatenate([np.where(found, corner * (room + 1), room // 2), side], 2).astype(np.int64)  # which rounds down
