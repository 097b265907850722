"""What a strip holds: the image, who looks where in which colour, and the maps, each at its place."""

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from ibot_hub.attention import ATTENTION, COSINE, AttentionMaps
from ibot_hub.colours import distinct, viridis
from ibot_hub.draw.attention import BAND, DIM, Ranges, draw_attention, draw_moving, draw_overlay
from ibot_hub.draw.sheet import FONT, GAP, PAPER
from ibot_hub.errors import UsageError
from ibot_hub.images import ImageTransform, decode
from ibot_hub.video import Frame

TOP = FONT + 2 * GAP  # where the pictures begin below their words
PATCH, ROWS, COLUMNS = 16, 15, 20
WIDTH, HEIGHT = COLUMNS * PATCH, ROWS * PATCH
BLACK = Image.new("RGB", (WIDTH, HEIGHT))

Pixels = npt.NDArray[np.uint8]


def maps_of(weights: npt.ArrayLike, of: str = ATTENTION) -> AttentionMaps:
    """Weights [heads, ROWS, COLUMNS] of an image of WIDTH x HEIGHT pixels that is taken as it is."""
    transform = ImageTransform(size=HEIGHT, resize="keep", patch=PATCH)
    return AttentionMaps(torch.tensor(np.asarray(weights), dtype=torch.float32), transform.fit(WIDTH, HEIGHT), of)


def random_maps(heads: int) -> AttentionMaps:
    weights = np.random.default_rng(heads).gamma(0.3, size=(heads, ROWS, COLUMNS))
    return maps_of(weights / weights.sum(axis=(1, 2), keepdims=True) * 0.9)


def patches(picture: Image.Image) -> Pixels:
    """The colour of each patch, [ROWS, COLUMNS, 3]; each is of one colour."""
    pixels = np.asarray(picture).reshape(ROWS, picture.height // ROWS, COLUMNS, picture.width // COLUMNS, 3)
    assert (pixels == pixels[:, :1, :, :1]).all()
    return pixels[:, 0, :, 0]


def official_paint(weights: npt.NDArray[np.float64], mass: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Head and opacity of each patch, step by step as the official script goes; for weights of which no two are equal."""
    held = np.zeros_like(weights)
    for head, values in enumerate(weights):
        order = values.flatten().argsort()
        total = np.cumsum(values.flatten()[order] / values.sum())
        keep = np.zeros(values.size, dtype=bool)
        keep[order[total > 1 - mass]] = True
        held[head] = np.where(keep.reshape(values.shape), values, 0)
    winner = held.argmax(axis=0)
    opacity = np.zeros(winner.shape)
    for head in range(len(weights)):
        mine = np.where(winner == head, held[head], 0)
        mine = (mine - mine.min()) / (mine.max() - mine.min())
        opacity = np.where(mine > 0.2, np.sqrt(mine), opacity)
    return winner, opacity


@pytest.mark.parametrize("mass", [0.3, 0.6, 0.95])
def test_the_overlay_is_the_official_one_for_any_number_of_heads(mass: float) -> None:
    for heads in (1, 6, 16):
        maps = random_maps(heads)
        winner, opacity = official_paint(maps.weights.double().numpy(), mass)
        colours = np.array(distinct(heads))[winner]
        expected = colours * opacity[..., None] + DIM[0] * (1 - opacity[..., None])
        assert abs(patches(draw_overlay(BLACK, maps, mass=mass)) - expected).max() < 2
        assert (opacity > 0).any()


def test_the_strongest_patches_hold_the_mass() -> None:
    """Sixty per cent are in the first three of five patches, the third included."""
    weights = np.zeros((1, ROWS, COLUMNS))
    weights[0, 0, :5] = 0.25, 0.25, 0.2, 0.15, 0.1
    painted = (patches(draw_overlay(BLACK, maps_of(weights), mass=0.6)) != DIM[0]).any(axis=-1)
    assert painted[0].tolist() == [True] * 3 + [False] * 17
    assert not painted[1:].any()
    painted = (patches(draw_overlay(BLACK, maps_of(weights), mass=1.0)) != DIM[0]).any(axis=-1)
    assert painted[0].tolist() == [True] * 5 + [False] * 15


def test_equal_weights_go_together_and_the_first_head_wins() -> None:
    weights = np.zeros((2, ROWS, COLUMNS))
    weights[:, 4, 7:11] = 0.25  # any three of the four would do
    seen = patches(draw_overlay(BLACK, maps_of(weights)))
    assert (seen[4, 7:11] == distinct(2)[0]).all()
    assert (seen != DIM[0]).any(axis=-1).sum() == 4


@pytest.mark.parametrize("value", [0.0, 1 / 300])
def test_maps_without_any_difference_are_drawn_without_colour(value: float) -> None:
    maps = maps_of(np.full((3, ROWS, COLUMNS), value))
    assert (patches(draw_overlay(BLACK, maps)) == DIM[0]).all()
    strip = np.asarray(draw_attention(BLACK, maps))
    assert (strip[TOP + BAND : TOP + BAND + HEIGHT, -GAP - WIDTH : -GAP] == viridis(0)).all()


def test_the_image_is_seen_in_grey_under_the_colours(photos: Path) -> None:
    image = decode(photos / "two_dogs.jpg").resize((WIDTH, HEIGHT))
    grey = np.asarray(draw_overlay(image, maps_of(np.zeros((1, ROWS, COLUMNS)))))
    assert np.ptp(grey, axis=-1).max() == 0
    assert (grey.min(), grey.max()) == DIM
    assert np.corrcoef(grey[..., 0].ravel(), np.asarray(image.convert("L")).ravel())[0, 1] > 0.999


def test_up_to_three_heads_stand_in_one_row(photos: Path) -> None:
    image, maps = decode(photos / "coffee.jpg").resize((WIDTH, HEIGHT)), random_maps(3)
    strip = np.asarray(draw_attention(image, maps))
    assert strip.shape == (TOP + BAND + HEIGHT + GAP, 5 * WIDTH + 6 * GAP, 3)
    cells = [strip[:, GAP + k * (WIDTH + GAP) :][:, :WIDTH] for k in range(5)]
    pictures = [cell[TOP + BAND :][:HEIGHT] for cell in cells]
    assert np.array_equal(pictures[0], np.asarray(image))
    assert np.array_equal(pictures[1], np.asarray(draw_overlay(image, maps)))
    for head in range(3):
        values = maps.weights[head].double().numpy()
        expected = viridis((values - values.min()) / np.ptp(values))
        assert np.array_equal(patches(Image.fromarray(pictures[2 + head])), expected)
        assert (cells[2 + head][TOP : TOP + BAND] == distinct(3)[head]).all()
    assert (cells[0][TOP : TOP + BAND] == PAPER).all()
    for cell in cells:  # words above each, in its middle
        assert (cell[:TOP, WIDTH // 2 - 15 : WIDTH // 2 + 15] != PAPER).any()
    assert all((strip[:, k * (WIDTH + GAP) :][:, :GAP] == PAPER).all() for k in range(6))


@pytest.mark.parametrize("heads", [4, 7, 12])
def test_more_heads_stand_in_two_rows_of_smaller_maps(heads: int) -> None:
    maps = random_maps(heads)
    strip = np.asarray(draw_attention(BLACK, maps))
    half = math.ceil(heads / 2)
    height = (HEIGHT - BAND - TOP - GAP) // 2
    width = round(WIDTH * height / HEIGHT)
    left = 2 * (WIDTH + GAP) + GAP
    assert strip.shape[0] == TOP + BAND + HEIGHT + GAP
    assert strip.shape[1] == left + half * (width + GAP) + GAP
    for head in range(heads):
        row, column = divmod(head, half)
        top = row * (TOP + BAND + height + GAP) + TOP
        x = left + GAP + column * (width + GAP)
        assert (strip[top : top + BAND, x : x + width] == distinct(heads)[head]).all()
        cell = strip[top + BAND : top + BAND + height, x : x + width].astype(int)
        y, x = np.unravel_index(int(maps.weights[head].argmax()), (ROWS, COLUMNS))
        assert abs(cell[int((y + 0.5) * height / ROWS), int((x + 0.5) * width / COLUMNS)] - viridis(1)).max() == 0


def test_chosen_heads_keep_their_colours() -> None:
    maps = random_maps(6)
    strip = np.asarray(draw_attention(BLACK, maps, heads=(4, 1)))
    assert strip.shape[1] == 4 * WIDTH + 5 * GAP
    for place, head in ((2, 4), (3, 1)):
        x = GAP + place * (WIDTH + GAP)
        assert (strip[TOP : TOP + BAND, x : x + WIDTH] == distinct(6)[head]).all()
    only = replace(maps, weights=maps.weights[[4]])
    seen = patches(draw_overlay(BLACK, maps, heads=[4]))
    assert ((seen != DIM[0]).any(axis=-1) == (patches(draw_overlay(BLACK, only)) != DIM[0]).any(axis=-1)).all()
    assert seen[np.unravel_index(int(maps.weights[4].argmax()), (ROWS, COLUMNS))].tolist() == list(distinct(6)[4])


def test_the_mean_of_the_heads_is_one_map() -> None:
    maps = random_maps(6)
    mean = replace(maps, weights=maps.weights.mean(dim=0, keepdim=True))
    assert abs(patches(draw_overlay(BLACK, maps, heads="mean")).astype(int) - patches(draw_overlay(BLACK, mean))).max() <= 1
    assert draw_attention(BLACK, maps, heads="mean").width == 3 * WIDTH + 4 * GAP


def test_what_the_network_did_not_see_is_not_shown(photos: Path) -> None:
    """Two thirds of a wide image, from its middle."""
    image = Image.fromarray(
        np.concatenate([np.full((240, side, 3), value, np.uint8) for side, value in ((120, 0), (480, 255), (120, 0))], 1)
    )
    fit = replace(ImageTransform(size=240, patch=16).fit(720, 240), resized=(720, 240), corner=(240, 0))
    strip = np.asarray(draw_attention(image, AttentionMaps(torch.rand(1, 15, 15), fit, ATTENTION)))
    assert (strip[TOP + BAND : TOP + BAND + 240, GAP : GAP + 240] == 255).all()
    seen = ImageTransform(size=112).pixels(decode(photos / "butterfly.jpg")).permute(1, 2, 0).numpy()
    fit = ImageTransform(size=112).fit(*decode(photos / "butterfly.jpg").size)
    strip = np.asarray(draw_attention(photos / "butterfly.jpg", AttentionMaps(torch.rand(1, 7, 7), fit, ATTENTION)))
    large = Image.fromarray(strip[TOP + BAND : TOP + BAND + 336, GAP : GAP + 336])  # three times as large, to be 240 at least
    assert abs(np.asarray(large.resize((112, 112))).astype(float) - seen).mean() < 6


def test_values_below_zero_count_as_nothing() -> None:
    """A Swin's cosines: only what points with the mean is coloured, and the map is not called a head."""
    weights = np.full((1, ROWS, COLUMNS), -0.9)
    weights[0, 3, 3] = 0.5
    seen = patches(draw_overlay(BLACK, maps_of(weights, COSINE)))
    assert (seen != DIM[0]).any(axis=-1).sum() == 1
    head, cosine = (np.asarray(draw_attention(BLACK, maps_of(weights, of)))[:TOP, -WIDTH:] for of in (ATTENTION, COSINE))
    assert (cosine != 255).sum() > 1.5 * (head != 255).sum()  # longer words


def test_a_share_that_is_none_and_heads_that_are_not_there_are_refused() -> None:
    maps = random_maps(3)
    for mass in (0.0, 1.01, math.nan):
        with pytest.raises(UsageError, match=r"mass is .*; it must be above 0 and at most 1"):
            draw_attention(BLACK, maps, mass=mass)
    with pytest.raises(UsageError, match="heads is 1,3; these maps have 3: numbers from 0 to 2"):
        draw_overlay(BLACK, maps, heads=(1, 3))
    with pytest.raises(UsageError, match="heads is empty"):
        draw_overlay(BLACK, maps, heads=())


def test_moving_pictures_do_not_flicker() -> None:
    """A weight that is twice as large for one frame is drawn as twice as large, less what the range has followed."""
    calm = np.full((1, ROWS, COLUMNS), 1e-4)
    calm[0, 2, 2:4] = 0.1, 0.05
    bright = calm * 2
    length = Fraction(1, 25)
    frames = [(Frame(BLACK, k * length, length), maps_of(values)) for k, values in enumerate((calm, calm, bright, calm))]
    strips = list(draw_moving(iter(frames), mass=1.0, heads="all"))
    assert [(strip.start, strip.length) for strip in strips] == [(k * length, length) for k in range(4)]
    first, second, third, fourth = (np.asarray(strip.image).astype(int) for strip in strips)
    assert np.array_equal(first, np.asarray(draw_attention(BLACK, maps_of(calm), mass=1.0)))
    assert np.array_equal(first, second)
    share = 1 - math.exp(-1 / 25)
    y, x = TOP + BAND + 2 * PATCH, GAP + 2 * (WIDTH + GAP) + 3 * PATCH  # of the weaker patch
    top = 0.1 * (1 + share) - 1e-4 * (1 + share)
    assert abs(third[y, x] - viridis((0.1 - 1e-4 * (1 + share)) / top)).max() <= 1
    assert abs(third - fourth).max() > 50  # it is drawn as brighter
    assert abs(fourth - first).max() < 30  # and soon forgotten
    painted = third[TOP + BAND + 2 * PATCH, GAP + WIDTH + GAP + 3 * PATCH]
    assert abs(painted - np.array(distinct(1)[0]) * math.sqrt(0.1 / (0.1 * (1 + share))) - DIM[0] * 0.02).max() < 4


def test_a_head_that_has_nothing_for_a_moment_keeps_its_range() -> None:
    before = Ranges(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 0.8], [0.0, 0.4]]))
    now = Ranges(np.array([[0.5, 2.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [0.0, 0.8]]))
    after = before.towards(now, 0.25)
    assert after.maps.tolist() == [[0.125, 1.25], [0.0, 1.0]]
    assert after.won.tolist() == [[0.0, 0.8], [0.0, 0.5]]
