"""Masks of objects become colours over their images, a row of frames a clip."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ibot_hub.colours import distinct
from ibot_hub.draw.sheet import sheet, shrink
from ibot_hub.images import to_rgb

OPACITY = 0.55  # of the colours
SIDE = 288  # pixels of the long side of a frame

Row = Sequence[tuple[Image.Image, npt.NDArray[np.uint8]]]


def draw_masks(rows: Sequence[Row], names: Sequence[str] = ()) -> Image.Image:
    """A sheet: a row for each clip, of images and their masks [height, width]: 0 is left free, each object has its colour.

    Args:
        names: what stands left of the rows.
    """
    return sheet([[draw_mask(image, labels) for image, labels in row] for row in rows], labels=names)


def draw_mask(image: Image.Image, labels: npt.NDArray[np.uint8]) -> Image.Image:
    """One image, small, with the colours of its objects."""
    small = shrink(to_rgb(image), SIDE)
    places = np.asarray(Image.fromarray(labels).resize(small.size, Image.Resampling.NEAREST))
    palette = np.array([(0, 0, 0), *distinct(int(labels.max()))], dtype=np.uint8)
    mask = Image.fromarray(((places > 0) * round(255 * OPACITY)).astype(np.uint8))
    small = small.copy()
    small.paste(Image.fromarray(palette[places]), mask=mask)
    return small
