"""Two views show what their boxes say, and are drawn as the official script's."""

import numpy as np
import pytest
from PIL import Image

from ibot_hub.two_views import Views, two_views

SEEDS = range(300)


@pytest.fixture(scope="module")
def ramp() -> Image.Image:
    """Red grows with x, green with y: a pixel's colour tells where it is."""
    y, x = np.mgrid[:200, :250]
    return Image.fromarray(np.stack([x, y, np.full_like(x, 30)], axis=-1).astype(np.uint8))


@pytest.fixture(scope="module")
def drawn(ramp: Image.Image) -> list[Views]:
    return [two_views(ramp, seed, side=16) for seed in SEEDS]


def test_same_seed_same_views(ramp: Image.Image) -> None:
    once, again, other = two_views(ramp, (3, 5)), two_views(ramp, (3, 5)), two_views(ramp, (3, 6))
    assert once.first.image.size == (224, 224)
    assert once.first.box == again.first.box
    assert once.first.image.tobytes() == again.first.image.tobytes()
    assert once.second.image.tobytes() == again.second.image.tobytes()
    assert once.first.box != other.first.box
    assert once.first.box != once.second.box


def test_points_of_a_view_lie_where_its_colours_come_from(ramp: Image.Image) -> None:
    """In views whose colours were left as they are: red is x - 0.5, green y - 0.5."""
    untouched = 0
    for seed in range(60):
        views = two_views(ramp, seed, side=32)
        for view in (views.first, views.second):
            pixels = np.asarray(view.image).astype(float)
            if not np.array_equal(pixels[..., 2], np.full((32, 32), 30)):
                continue
            y, x = np.mgrid[4:28, 4:28] + 0.5  # away from the border, where bicubic has less to go by
            points = view.in_image(np.stack([x, y], axis=-1))
            assert np.abs(points[..., 0] - 0.5 - pixels[4:28, 4:28, 0]).max() < 1.5
            assert np.abs(points[..., 1] - 0.5 - pixels[4:28, 4:28, 1]).max() < 1.5
            untouched += 1 + 100 * view.flipped
    assert untouched > 101  # flipped ones and others


def test_boxes_and_changes_are_as_often_as_they_should(drawn: list[Views]) -> None:
    views = [view for pair in drawn for view in (pair.first, pair.second)]
    boxes = np.array([view.box for view in views])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 250).all()
    assert (boxes[:, 3] <= 200).all()
    area = width * height / (250 * 200)
    assert 0.39 <= area.min() < 0.45
    assert 0.9 < area.max() <= 1
    assert (width / height).min() >= 0.74
    assert (width / height).max() <= 1.35
    flipped, grey, same = np.mean([(view.flipped, _is_grey(view.image), _has_own_colours(view.image)) for view in views], axis=0)
    assert flipped == pytest.approx(0.5, abs=0.07)
    assert grey == pytest.approx(0.2, abs=0.06)
    assert same == pytest.approx(0.2 * 0.8, abs=0.06)  # neither jittered nor grey


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def _has_own_colours(image: Image.Image) -> bool:
    return image.getchannel("B").getextrema() == (30, 30)


@pytest.mark.parametrize("size", [(1, 1), (3, 100), (100, 3), (400, 30)])
def test_images_that_no_box_fits_give_their_centre(size: tuple[int, int]) -> None:
    views = two_views(Image.new("RGB", size, "green"), side=8)
    left, top, right, bottom = views.first.box
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert abs((left + right) - size[0]) <= 1
    assert abs((top + bottom) - size[1]) <= 1
    assert (views.width, views.height) == size
