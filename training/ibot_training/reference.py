"""Drawn views of one image with Pillow, as in the official code."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ibot_training.recipe import Crops
from ibot_training.views import HUE, Views

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)  # in the order of `views.factors`


def crops_of(image: Image.Image, views: Views, crops: Crops) -> list[npt.NDArray[np.uint8]]:
    """RGB image and its views [C] -> C crops, global ones first: grey levels, uint8 [3, size, size] (facts 4.4)."""
    sizes = [crops.global_size] * crops.global_count + [crops.local_size] * crops.local_count
    return [np.asarray(_crop_of(image, views[index], size)).transpose(2, 0, 1) for index, size in enumerate(sizes)]


def _crop_of(image: Image.Image, view: Views, size: int) -> Image.Image:
    top, left, height, width = view.box.tolist()
    # cropped first, so that no pixel beyond the box takes part in the filter
    crop = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)
    if view.flip:
        crop = ImageOps.mirror(crop)
    if view.jitter:
        for kind in view.order.tolist():
            factor = view.factors[kind].item()
            crop = _turned(crop, factor) if kind == HUE else ENHANCERS[kind](crop).enhance(factor)
    if view.grey:
        crop = crop.convert("L").convert("RGB")
    if view.radius:
        crop = crop.filter(ImageFilter.GaussianBlur(view.radius.item()))
    return ImageOps.solarize(crop, 128) if view.solarise else crop


def _turned(crop: Image.Image, turns: float) -> Image.Image:
    """The colours turned, in the 256 steps that Pillow divides the circle into, as torchvision does it."""
    if not turns:  # the way there and back would still round hue and saturation
        return crop
    hue, saturation, value = crop.convert("HSV").split()
    turned = hue.point([(level + int(turns * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
