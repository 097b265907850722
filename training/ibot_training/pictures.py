"""A sheet of crops: as they are, with the patches that are hidden from the student, and under the attention of [CLS]."""

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD
from ibot_hub.colours import viridis
from ibot_hub.draw.sheet import sheet

Pixels = npt.NDArray[np.uint8]

SIDE = 224  # pixels of a crop on the sheet
HIDDEN = (142, 142, 150)


def picture(crops: Tensor, masks: Tensor, attention: Tensor | None) -> Image.Image:
    """A row for each crop, a labelled column for each way to see it.

    Args:
        crops: normalised with ImageNet's mean and standard deviation, [n, 3, S, S].
        masks: bool [n, H, W] by row and column of the cells that can be hidden; True is hidden.
        attention: [n, heads, h, w] of [CLS] to the patches; None leaves the column out, as for a Swin. It is drawn as the mean
            over heads, each crop from its least (dark blue) to its greatest value (yellow).
    """
    shown = [_pixels(crop) for crop in crops]
    columns = {
        "crop": [_resized(pixels) for pixels in shown],
        "hidden from the student": [_masked(pixels, mask) for pixels, mask in zip(shown, masks, strict=True)],
    }
    if attention is not None:
        columns["attention of [CLS]"] = [_attended(pixels, heads.mean(0)) for pixels, heads in zip(shown, attention, strict=True)]
    return sheet(list(zip(*columns.values(), strict=True)), columns=list(columns))


def _pixels(crop: Tensor) -> Pixels:
    """Normalised [3, S, S] -> [S, S, 3]."""
    values = crop.float().cpu().numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    return np.rint(values * 255).clip(0, 255).astype(np.uint8)


def _resized(pixels: Pixels) -> Image.Image:
    """[h, w, 3] -> a cell of the sheet."""
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _masked(pixels: Pixels, mask: Tensor) -> Image.Image:
    image = _resized(pixels)
    cells = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)
    image.paste(HIDDEN, mask=cells.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return image


def _attended(pixels: Pixels, weights: Tensor) -> Image.Image:
    """The crop in grey under the colours of [h, w] weights, blended so that both are seen."""
    values = weights.float().cpu().numpy()
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    values = np.asarray(Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return Image.blend(_resized(pixels).convert("L").convert("RGB"), Image.fromarray(viridis(values)), 0.6)
