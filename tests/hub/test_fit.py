import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.fit import Fit
from ibot_hub.images import ImageTransform


@pytest.mark.parametrize("resize", ["crop", "squash", "keep"])
@pytest.mark.parametrize("size", [(640, 427), (300, 500), (224, 224), (97, 1201)])
def test_grid_is_that_of_the_prepared_image(resize, size):
    transform = ImageTransform(size=64, resize=resize, patch=8)
    fit = transform.fit(*size)
    assert transform(Image.new("RGB", size)).shape == (3, fit.rows * 8, fit.columns * 8)
    assert fit.centres().shape == (fit.rows, fit.columns, 2)


@pytest.mark.parametrize("resize", ["crop", "squash", "keep"])
@pytest.mark.parametrize("size", [(640, 427), (301, 500), (640, 480)])
def test_a_patch_lies_where_its_pixels_came_from(resize, size):
    """An image of two ramps: the mean colour of a prepared patch tells where in the image it came from."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    image = Image.fromarray((np.stack([x, y, 0 * x], -1) * 255).astype(np.uint8))
    transform = ImageTransform(size=64, resize=resize, patch=16)
    fit = transform.fit(width, height)
    patches = transform.pixels(image)[:2].float().unfold(1, 16, 16).unfold(2, 16, 16).mean((-2, -1)) + 0.5  # [2, H, W]
    found = (patches / 255).permute(1, 2, 0) * torch.tensor([width, height])
    assert np.abs(found.numpy() - fit.centres()).max() < 0.02 * max(size)


def test_centres_boxes_points_and_patches_agree():
    fit = ImageTransform(size=64, resize="crop", patch=16).fit(640, 427)
    for row in range(fit.rows):
        for column in range(fit.columns):
            x, y = fit.centre(row, column)
            assert tuple(fit.centres()[row, column]) == (x, y)
            assert fit.patch_at(x, y) == (row, column)
            left, top, right, bottom = fit.box(row, column)
            assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((x, y))
            assert fit.patch_at(left + 1e-6, top + 1e-6) == (row, column)
            assert fit.patch_at(right - 1e-6, bottom - 1e-6) == (row, column)
            wide = fit.box(row, column, context=2)
            assert wide[2] - wide[0] == pytest.approx(5 * (right - left))
            assert (wide[0] + wide[2]) / 2 == pytest.approx(x)


def test_the_centre_of_the_crop_is_the_centre_of_the_image():
    fit = ImageTransform(size=224, resize="crop", patch=16).fit(448, 448)  # 448 -> 256, of which the central 224
    assert fit == Fit(448, 448, (256, 256), (16, 16), (224, 224), 16)
    assert fit.centre(6.5, 6.5) == (224, 224)
    assert fit.box(0, 0) == (28, 28, 56, 56)


@pytest.mark.parametrize("point", [(0, 0), (447, 447), (27.9, 224), (224, 420.1), (-5, 224)])
def test_outside_of_the_crop_there_is_no_patch(point):
    assert ImageTransform(size=224, resize="crop", patch=16).fit(448, 448).patch_at(*point) is None
