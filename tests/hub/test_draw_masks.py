"""Objects have their colours over their images, whatever the size."""

import numpy as np
from PIL import Image

from ibot_hub.colours import distinct
from ibot_hub.draw.masks import OPACITY, SIDE, draw_mask, draw_masks

LABELS = np.zeros((SIDE // 2, SIDE), dtype=np.uint8)
LABELS[:, : SIDE // 4] = 1
LABELS[:, -SIDE // 4 :] = 3
WHITE = Image.new("RGB", (SIDE, SIDE // 2), "white")


def test_each_object_has_its_colour() -> None:
    drawn = np.asarray(draw_mask(WHITE, LABELS)).astype(float)
    for column, number in ((5, 1), (SIDE - 5, 3)):
        expected = np.array(distinct(3)[number - 1]) * OPACITY + 255 * (1 - OPACITY)
        assert abs(drawn[20, column] - expected).max() <= 2
    assert (drawn[20, SIDE // 2] == 255).all()
    assert np.asarray(WHITE).min() == 255  # what was given stays as it is


def test_images_of_any_size_are_drawn_small() -> None:
    large = draw_mask(WHITE.resize((4 * SIDE, 2 * SIDE)), np.kron(LABELS, np.ones((4, 4), dtype=np.uint8)))
    assert np.array_equal(np.asarray(large), np.asarray(draw_mask(WHITE, LABELS)))


def test_a_row_for_each_clip() -> None:
    one, two = draw_masks([[(WHITE, LABELS)] * 3]), draw_masks([[(WHITE, LABELS)] * 3] * 2, ["first", "second"])
    assert one.width > 3 * SIDE
    assert two.height > 1.9 * one.height
    assert two.width > one.width  # for the names
