import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import functional

import ibot_hub
from ibot_training.recipe import Augmentation, Crops
from ibot_training.reference import crops_of
from ibot_training.views import Views, draw_views

PHOTOS = sorted((Path(ibot_hub.__file__).parents[1] / "examples/photos").glob("*.jpg"))
CROPS = Crops(global_size=64, local_size=32, local_count=3)
PLAIN = Views(
    box=np.array([10, 20, 120, 90]),
    flip=np.array(False),
    jitter=np.array(False),
    factors=np.array([1.3, 0.7, 1.15, -0.08]),
    order=np.array([3, 1, 0, 2]),
    grey=np.array(False),
    radius=np.array(0.0),
    solarise=np.array(False),
)
ONE = Crops(global_count=1, global_size=64, local_count=0)
ADJUST = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue)


def photo(index: int = 0) -> Image.Image:
    return Image.open(PHOTOS[index]).convert("RGB")


def made(image: Image.Image, **changes: object) -> np.ndarray:
    """One crop with one view, which has `changes` from `PLAIN`; uint8 [3, 64, 64]."""
    (crop,) = crops_of(image, replace(PLAIN, **{name: np.array(value) for name, value in changes.items()})[None], ONE)
    return crop


def theirs(image: Image.Image) -> Image.Image:
    """Torchvision's crop of `PLAIN`'s box."""
    return functional.resized_crop(image, 10, 20, 120, 90, [64, 64], functional.InterpolationMode.BICUBIC)


def assert_same(crop: np.ndarray, expected: Image.Image) -> None:
    assert np.array_equal(crop, np.asarray(expected).transpose(2, 0, 1))


def test_crop_is_torchvisions() -> None:
    assert_same(made(photo()), theirs(photo()))


def test_flip_is_torchvisions() -> None:
    assert_same(made(photo(), flip=True), functional.hflip(theirs(photo())))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
@pytest.mark.parametrize("factors", [(1.3, 0.7, 1.15, -0.08), (0.61, 1.39, 0.8, 0.1), (1.0, 1.0, 1.0, 0.03)])
def test_jitter_is_torchvisions_in_the_drawn_order(order: tuple[int, ...], factors: tuple[float, ...]) -> None:
    expected = theirs(photo(3))
    for kind in order:
        expected = ADJUST[kind](expected, factors[kind])
    assert_same(made(photo(3), jitter=True, order=order, factors=factors), expected)


def test_factors_that_change_nothing_change_nothing() -> None:
    assert np.array_equal(made(photo(), jitter=True, factors=(1.0, 1.0, 1.0, 0.0)), made(photo()))


def test_grey_and_solarisation_are_torchvisions() -> None:
    assert_same(made(photo(), grey=True), functional.to_grayscale(theirs(photo()), 3))
    assert_same(made(photo(), solarise=True), functional.solarize(theirs(photo()), 128))


def test_blur_is_pillows() -> None:
    assert_same(made(photo(), radius=1.7), theirs(photo()).filter(ImageFilter.GaussianBlur(1.7)))


def test_everything_comes_in_the_official_order() -> None:
    """Facts 4.4: crop, flip, jitter, grey, blur, solarisation."""
    expected = functional.hflip(theirs(photo(5)))
    for kind in PLAIN.order:
        expected = ADJUST[kind](expected, PLAIN.factors[kind])
    expected = functional.to_grayscale(expected, 3).filter(ImageFilter.GaussianBlur(0.9))
    assert_same(made(photo(5), flip=True, jitter=True, grey=True, radius=0.9, solarise=True), functional.solarize(expected, 128))


def test_global_crops_come_first_each_with_its_own_view() -> None:
    views = draw_views(CROPS, Augmentation(), (photo().height, photo().width), np.random.default_rng(0))
    crops = crops_of(photo(), views, CROPS)
    assert [(crop.shape, crop.dtype) for crop in crops] == [((3, 64, 64), np.uint8)] * 2 + [((3, 32, 32), np.uint8)] * 3
    for index, size in ((1, 64), (4, 32)):
        (alone,) = crops_of(photo(), views[[index]], Crops(global_count=1, global_size=size, local_count=0))
        assert np.array_equal(crops[index], alone)


@pytest.mark.parametrize("size", [(1, 1), (500, 3), (3, 500)])
def test_tiny_and_narrow_images(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (200, 30, 90))
    nothing = replace(Augmentation(), jitter=0.0, grey=0.0, solarise=(0.0,) * 3)
    crops = crops_of(image, draw_views(CROPS, nothing, size[::-1], np.random.default_rng(0)), CROPS)
    assert all((crop == np.array([200, 30, 90])[:, None, None]).all() for crop in crops)


def test_threads_make_the_same_and_leave_global_random_numbers_alone() -> None:
    views = [
        draw_views(CROPS, Augmentation(), (photo(index).height, photo(index).width), np.random.default_rng(index)) for index in range(8)
    ]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    serial = [crops_of(photo(index), views[index], CROPS) for index in range(8)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda index: crops_of(photo(index), views[index], CROPS), range(8)))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    for first, second in zip(serial, parallel, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
