import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandomResizedCrop

from ibot_training.recipe import Augmentation, Crops
from ibot_training.views import HUE, Views, draw_batch, draw_views

CROPS = Crops(global_count=3, local_count=2)
KINDS = ("first global", "other globals", "locals")


def drawn(count: int, size: tuple[int, int] = (375, 500), crops: Crops = CROPS, augmentation: Augmentation | None = None) -> Views:
    """Views of `count` images of one size."""
    return draw_batch(crops, augmentation or Augmentation(), [size] * count, [np.random.default_rng(seed) for seed in range(count)])


def of_kind(values: np.ndarray, kind: str) -> np.ndarray:
    """Of [B, 5, ...] what was drawn for crops of one kind."""
    return values[:, {"first global": [0], "other globals": [1, 2], "locals": [3, 4]}[kind]]


def test_same_seed_same_numbers() -> None:
    first, again, other = (vars(draw_views(CROPS, Augmentation(), (375, 500), np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["box"], other["box"])
    assert not np.array_equal(first["factors"], other["factors"])


def test_shapes_and_types() -> None:
    views = vars(draw_views(CROPS, Augmentation(), (375, 500), np.random.default_rng(0)))
    assert {name: (value.shape, value.dtype.kind) for name, value in views.items()} == {
        "box": ((5, 4), "i"),
        "flip": ((5,), "b"),
        "jitter": ((5,), "b"),
        "factors": ((5, 4), "f"),
        "order": ((5, 4), "i"),
        "grey": ((5,), "b"),
        "radius": ((5,), "f"),
        "solarise": ((5,), "b"),
    }


def test_a_batch_has_the_views_of_its_images_one_by_one() -> None:
    sizes = [(375, 500), (3, 500), (64, 64), (1, 1)]
    batch = draw_batch(CROPS, Augmentation(), sizes, [np.random.default_rng(seed) for seed in range(4)])
    for index, size in enumerate(sizes):
        alone = draw_views(CROPS, Augmentation(), size, np.random.default_rng(index))
        assert all(np.array_equal(value, vars(batch[index])[name]) for name, value in vars(alone).items())


def test_the_same_count_of_numbers_is_taken_whatever_the_size() -> None:
    """Masks are drawn from the same generator, after the views."""
    after = set()
    for size in [(375, 500), (3, 500), (1, 1), (4000, 3000)]:
        rng = np.random.default_rng(0)
        draw_views(CROPS, Augmentation(), size, rng)
        after.add(rng.random())
    assert len(after) == 1


@pytest.mark.parametrize("scale", [(0.25, 1.0), (0.05, 0.25)])
@pytest.mark.parametrize("size", [(375, 500), (64, 64), (40, 70)])
def test_boxes_are_distributed_as_those_of_torchvision(size: tuple[int, int], scale: tuple[float, float]) -> None:
    count = 4000
    crops = Crops(global_count=1, global_scale=scale, local_count=0)
    boxes = drawn(count, size, crops).box[:, 0]
    image = torch.empty(3, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crop = RandomResizedCrop(224, scale)
        theirs = np.array(
            [[params[side] for side in ("top", "left", "height", "width")] for params in (crop.make_params([image]) for _ in range(count))]
        )
    for name, first, second in zip(("area", "log ratio", "y", "x"), facts(boxes, size), facts(theirs, size), strict=True):
        error = np.sqrt((first.var() + second.var()) / count)
        assert abs(first.mean() - second.mean()) < 4 * error, name
        assert first.std() == pytest.approx(second.std(), rel=0.06), name
        assert np.quantile(first, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(second, [0.1, 0.5, 0.9]), abs=0.15 * first.std()), name


def facts(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Share of the area, logarithm of the ratio, and the centre, of boxes [N, 4]."""
    top, left, height, width = boxes.T
    return height * width / np.prod(size), np.log(width / height), (top + height / 2) / size[0], (left + width / 2) / size[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 500), (500, 3), (7, 7), (33, 50), (375, 500)])
def test_boxes_lie_in_the_image(size: tuple[int, int]) -> None:
    top, left, height, width = np.moveaxis(drawn(300, size).box, -1, 0)
    assert top.min() >= 0 <= left.min()
    assert height.min() >= 1 <= width.min()
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]


def test_a_box_can_lie_at_every_edge() -> None:
    """Positions are drawn with both ends included."""
    top, left, height, width = np.moveaxis(drawn(400, (8, 10)).box, -1, 0)
    room_y, room_x = 8 - height, 10 - width
    for position, room in ((top, room_y), (left, room_x)):
        assert set(position[room == 3]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("size", "box"),
    [((3, 500), [0, 248, 3, 4]), ((500, 3), [248, 0, 4, 3]), ((2, 9), [0, 3, 2, 3]), ((1, 1), [0, 0, 1, 1])],
)
def test_where_no_box_fits_it_is_the_centre(size: tuple[int, int], box: list[int]) -> None:
    """As in torchvision: as much of the image as the ratio 4 / 3 allows."""
    crops = Crops(global_scale=(0.9, 1.0) if size == (2, 9) else (0.25, 1.0), local_count=0)
    assert (drawn(50, size, crops).box == box).all()


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("flip", (0.5, 0.5, 0.5)),
        ("jitter", (0.8, 0.8, 0.8)),
        ("grey", (0.2, 0.2, 0.2)),
        ("radius", (1.0, 0.1, 0.5)),
        ("solarise", (0.0, 0.2, 0.0)),
    ],
)
def test_probabilities_by_kind_of_crop(event: str, expected: tuple[float, float, float]) -> None:
    """Facts 4.4."""
    happened = vars(drawn(4000))[event] > 0
    for kind, probability in zip(KINDS, expected, strict=True):
        found = of_kind(happened, kind)
        assert found.mean() == pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / found.size)), kind


def test_ranges_of_the_factors_and_of_the_radius() -> None:
    views = drawn(2000)
    for index, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        assert_uniform(views.factors[..., index], low, high)
    assert_uniform(views.radius[views.radius > 0], 0.1, 2.0)


def test_a_factor_is_never_negative() -> None:
    assert_uniform(drawn(1000, augmentation=Augmentation(brightness=1.5)).factors[..., 0], 0, 2.5)


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high >= values.max() > high - 0.01 * (high - low)
    assert values.mean() == pytest.approx((low + high) / 2, abs=4 * (high - low) / np.sqrt(12 * values.size))
    assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.05)


def test_every_order_is_as_likely() -> None:
    orders = drawn(4800).order.reshape(-1, 4)
    permutations, counts = np.unique(orders, axis=0, return_counts=True)
    assert [tuple(order) for order in permutations] == sorted(itertools.permutations(range(4)))
    assert counts == pytest.approx(1000, abs=5 * np.sqrt(1000))


def test_numbers_are_drawn_independently() -> None:
    """No two of the numbers of a crop, nor those of two crops, go together."""
    views = drawn(3000)
    columns = [views.flip, views.jitter, views.grey, views.radius > 0, views.order[..., HUE], *np.moveaxis(views.factors, -1, 0)]
    top, left, height, width = np.moveaxis(views.box, -1, 0)
    columns += [(top + 0.5) / (376 - height), (left + 0.5) / (501 - width), height * width]
    table = np.stack(columns, -1)[:, 1:4]  # of an other global crop twice, and of a local one
    found = np.corrcoef(table.reshape(3000, -1).T.astype(float))
    assert np.abs(found - np.eye(len(found))).max() < 5 / np.sqrt(3000)


def test_what_is_unused_changes_nothing_else() -> None:
    plain, other = vars(drawn(20)), vars(drawn(20, augmentation=replace(Augmentation(), flip=0.0, blur=(0.0, 0.0, 0.0))))
    assert not other["flip"].any()
    assert not other["radius"].any()
    assert all(np.array_equal(plain[name], other[name]) for name in plain.keys() - {"flip", "radius"})
