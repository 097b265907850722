"""Colours of components stand where their patches are."""

import numpy as np
import torch
from PIL import Image

from ibot_hub.draw.components import DIM, draw_colours, draw_components
from ibot_hub.images import ImageTransform
from ibot_hub.pca import ComponentMap


def map_of(image: Image.Image, transform: ImageTransform) -> ComponentMap:
    """A colour for each patch, and the first column as background."""
    fit = transform.fit(*image.size)
    colours = torch.randint(100, 256, (fit.rows, fit.columns, 3), generator=torch.Generator().manual_seed(0)).byte()
    foreground = torch.ones(fit.rows, fit.columns, dtype=torch.bool)
    foreground[:, 0] = False
    return ComponentMap(torch.zeros(fit.rows, fit.columns, 3), foreground, colours, fit)


def photograph(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 200, 200))


def test_every_patch_has_its_colour_and_background_is_the_image_in_dark_grey() -> None:
    image = photograph(300, 200)
    of_image = map_of(image, ImageTransform(size=64, resize="keep", patch=16))
    for scale in (1, 0.5, 1.7):
        small = image.resize((int(300 * scale), int(200 * scale)))
        drawn = np.asarray(draw_colours(small, of_image))
        assert drawn.shape == (small.height, small.width, 3)
        for row in range(4):
            for column in range(6):
                x, y = of_image.fit.centre(row, column)
                pixel = drawn[int(y * scale), int(x * scale)].tolist()
                if column == 0:
                    assert pixel == [int(200 * DIM)] * 3
                else:
                    assert pixel == of_image.colours[row, column].tolist()


def test_what_the_network_did_not_see_is_background() -> None:
    image = photograph(300, 200)
    of_image = map_of(image, ImageTransform(size=64, resize="crop", patch=16))
    drawn = np.asarray(draw_colours(image, of_image))
    left, top = of_image.fit.box(0, 0)[:2]
    assert drawn[5, 5].tolist() == drawn[100, int(left) - 2].tolist() == [int(200 * DIM)] * 3
    x, y = of_image.fit.centre(3, 3)
    assert drawn[int(y), int(x)].tolist() == of_image.colours[3, 3].tolist()
    assert top > 5


def test_a_sheet_has_each_image_beside_its_colours_in_reading_order() -> None:
    images = [Image.new("RGB", (90, 60), (0, 0, shade)) for shade in (50, 100, 150, 200)]
    maps = [map_of(image, ImageTransform(size=32, resize="keep", patch=16)) for image in images]
    drawn = np.asarray(draw_components(images, maps, ["one", "two", "three", "four"], side=90))
    found = [np.argwhere((drawn == image.getpixel((0, 0))).all(-1)) for image in images]
    for pixels in found:
        assert len(pixels) == 90 * 60
    tops, lefts = zip(*(pixels.min(0) for pixels in found), strict=True)
    assert tops[0] == tops[1] == tops[2] < tops[3]
    assert lefts[0] < lefts[1] < lefts[2]
    assert lefts[3] == lefts[0]
    for of_image, top, left in zip(maps, tops, lefts, strict=True):
        y = of_image.fit.centre(1, 2)[1]
        beside = drawn[top + int(y) : top + int(y) + 1, left + 90 :].reshape(-1, 3)
        assert of_image.colours[1, 2].tolist() in beside[:120].tolist()
        above = drawn[top - 22 : top - 4, left : left + 90]
        assert above.min() < 120  # its name


def test_names_may_be_left_out_and_any_size_be_asked() -> None:
    image = photograph(30, 60)
    drawn = draw_components([image], [map_of(image, ImageTransform(size=32, resize="keep", patch=16))], side=120)
    assert drawn.height < 160
    assert (np.asarray(drawn) == 200).all(-1).sum() == 60 * 120
