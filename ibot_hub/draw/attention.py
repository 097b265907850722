"""Attention maps as a strip: the image, its patches in the colours of the heads that attend to them, and a heat map a head."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from ibot_hub.attention import ATTENTION, AttentionMaps, strongest
from ibot_hub.colours import Colour, distinct, viridis
from ibot_hub.draw.sheet import FONT, GAP, PAPER, grid, sheet
from ibot_hub.errors import UsageError
from ibot_hub.images import ImageLike, as_images, to_rgb
from ibot_hub.options import AttentionOptions, Heads, check_mass
from ibot_hub.video import Frame

Floats = npt.NDArray[np.float64]

BAND = 6  # pixels above a map, in the colour of its head
ONE_ROW = 3  # heads up to which the maps are as large as the image; more stand in two rows of half that height
SHORTEST = 240  # pixels of the short side: smaller pictures are enlarged by a whole number
DIM = (12, 84)  # grey of the darkest and the brightest pixel under the colours
FAINT = 0.2  # of a head's range: what is fainter gets no colour (official)
SETTLING = 1.0  # seconds in which the ranges of a moving picture go 63 % of their way to those of the frame at hand


@dataclass(frozen=True, eq=False)
class Ranges:
    """From which value to which value a head is drawn, from nothing to full colour."""

    maps: Floats  # [heads, 2] lowest and highest value of each heat map
    won: Floats  # [heads, 2] of what each head has in the overlay

    def towards(self, other: "Ranges", share: float) -> "Ranges":
        """The ranges that lie at `share` of the way to `other`; a head that has nothing in the overlay there keeps its own."""
        seen = np.ptp(other.won, axis=1, keepdims=True) > 0
        return Ranges(self.maps + (other.maps - self.maps) * share, np.where(seen, self.won + (other.won - self.won) * share, self.won))


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The maps that are drawn."""

    weights: Floats  # [heads, H, W]
    won: Floats  # [heads, H, W], 0 but where the head has the greatest of all weights, and it is of its strongest
    labels: list[str]
    colours: tuple[Colour, ...]

    def ranges(self) -> Ranges:
        return Ranges(*(np.stack([values.min(axis=(1, 2)), values.max(axis=(1, 2))], axis=1) for values in (self.weights, self.won)))


def draw_attention(
    image: ImageLike, maps: AttentionMaps, *, mass: float = AttentionOptions.mass, heads: Heads = "all", ranges: Ranges | None = None
) -> Image.Image:
    """Image | overlay | one map a head, labelled; what is shown of the image is what the network saw.

    Up to three maps are as large as the image, in one row; more stand in two rows of half its height. A map goes from its
    lowest value (dark blue) to its highest (yellow); the band above it has the head's colour in the overlay.

    Args:
        image: the one the maps were made of.
        mass, heads: see `draw_overlay`.
        ranges: what takes the place of each map's own lowest and highest value, for frames of a moving picture.
    """
    drawn = _drawn(maps, mass, heads)
    ranges = ranges or drawn.ranges()
    picture = _picture(image, maps)
    words = ["image", f"strongest {mass * 100:g} %" + (" of each head" if len(drawn.labels) > 1 else "")]
    first = [_banded(picture, PAPER), _banded(_painted(picture, drawn, ranges.won), PAPER)]
    if len(drawn.labels) <= ONE_ROW:
        return sheet([[*first, *_heats(drawn, ranges, picture.size)]], columns=[*words, *drawn.labels])
    height = (picture.height - BAND - FONT - 3 * GAP) // 2
    heats = _heats(drawn, ranges, (round(picture.width * height / picture.height), height))
    half = math.ceil(len(heats) / 2)
    rows = [sheet([heats[part]], columns=drawn.labels[part]) for part in (slice(half), slice(half, None))]
    block = Image.new("RGB", (rows[0].width, 2 * rows[0].height), PAPER)
    for index, row in enumerate(rows):
        block.paste(row, (0, index * row.height))
    return grid([sheet([first], columns=words), block], 2, gap=0)


def draw_overlay(
    image: ImageLike, maps: AttentionMaps, *, mass: float = AttentionOptions.mass, heads: Heads = "all", ranges: Ranges | None = None
) -> Image.Image:
    """The image in dim grey, its patches in the colour of the head that attends to them most (Fig. 6, 18; official implementation).

    Of each head only the strongest patches that together hold `mass` of its weight take part (all of equal weight, or none of
    them). Of heads equally strong the first has the patch. What a head has is then drawn from its lowest to its highest value,
    with the opacity of the root of where it lies between them, and not at all in the lowest fifth. Values below 0, which only
    a Swin's map has, count as 0.

    Args:
        image: the one the maps were made of.
        mass: above 0, at most 1.
        heads: "all", their "mean" as one map, or numbers from 0 on; a head keeps its colour whatever is chosen.
        ranges: see `draw_attention`.

    Raises:
        UsageError: `mass` is no share; a head that the model does not have.
    """
    drawn = _drawn(maps, mass, heads)
    return _painted(_picture(image, maps), drawn, (ranges or drawn.ranges()).won)


def draw_moving(frames: Iterable[tuple[Frame, AttentionMaps]], *, mass: float, heads: Heads) -> Iterator[Frame]:
    """The frames of a moving picture as strips that do not flicker.

    Each frame by itself would be drawn from its own lowest to its own highest values, which jump. Here these ranges follow
    those of the frames slowly, with a time constant of one second; the first frame has its own.
    """
    ranges: Ranges | None = None
    for frame, maps in frames:
        own = _drawn(maps, mass, heads).ranges()
        ranges = ranges.towards(own, 1 - math.exp(-float(frame.length) / SETTLING)) if ranges else own
        yield replace(frame, image=draw_attention(frame.image, maps, mass=mass, heads=heads, ranges=ranges))


def _drawn(maps: AttentionMaps, mass: float, heads: Heads) -> _Drawn:
    check_mass(mass)
    weights = maps.weights.numpy().astype(np.float64)
    count = len(weights)
    if heads == "mean":
        weights, labels, numbers = weights.mean(axis=0, keepdims=True), [f"mean of {count} heads"], [0]
    else:
        numbers = list(range(count)) if heads == "all" else list(heads)
        if not numbers or not all(0 <= number < count for number in numbers):
            raise UsageError(f"heads is {','.join(map(str, numbers)) or 'empty'}; these maps have {count}: numbers from 0 to {count - 1}.")
        weights, labels = weights[numbers], [f"head {number}" for number in numbers]
    if maps.of != ATTENTION:
        labels = ["cosine with the mean"]
    positive = weights.clip(min=0)
    strong = np.stack([np.where(strongest(values, mass), values, 0) for values in positive])
    winner = strong.argmax(axis=0)  # [H, W], the first where several are equal
    won = np.where(winner == np.arange(len(strong))[:, None, None], strong, 0)
    palette = distinct(max(numbers) + 1)
    return _Drawn(weights, won, labels, tuple(palette[number] for number in numbers))


def _scaled(values: Floats, ranges: Floats) -> Floats:
    """[heads, H, W] -> 0..1 within each head's range [heads, 2]; 0 throughout where a range is a single value."""
    low, span = ranges[:, :1, None], np.diff(ranges)[:, :, None]
    scaled: Floats = np.divide(values - low, span, out=np.zeros_like(values), where=span > 0).clip(0, 1)
    return scaled


def _heats(drawn: _Drawn, ranges: Ranges, size: tuple[int, int]) -> list[Image.Image]:
    """A heat map a head, of that width and height, below the head's colour."""
    heats = [Image.fromarray(viridis(values)).resize(size, Image.Resampling.NEAREST) for values in _scaled(drawn.weights, ranges.maps)]
    return [_banded(heat, colour) for heat, colour in zip(heats, drawn.colours, strict=True)]


def _painted(picture: Image.Image, drawn: _Drawn, ranges: Floats) -> Image.Image:
    """The picture in dim grey under the colours of the heads."""
    scaled = _scaled(drawn.won, ranges)  # [heads, H, W], at most one head above 0 at a patch
    colours = np.array(drawn.colours, dtype=np.uint8)[scaled.argmax(axis=0)]  # [H, W, 3]
    strength = scaled.max(axis=0)
    opacity = np.where(strength > FAINT, np.sqrt(strength), 0)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    shades = (grey - grey.min()) / max(float(np.ptp(grey)), 1.0) * (DIM[1] - DIM[0]) + DIM[0]
    ground = Image.fromarray(np.rint(shades).astype(np.uint8)).convert("RGB")
    flat = (colours, np.rint(opacity * 255).astype(np.uint8))
    paint, mask = (Image.fromarray(values).resize(picture.size, Image.Resampling.NEAREST) for values in flat)
    ground.paste(paint, mask=mask)
    return ground


def _picture(image: ImageLike, maps: AttentionMaps) -> Image.Image:
    """What the network saw of the image, in its size or a whole multiple of that."""
    (given,) = as_images(image)
    fit = maps.fit
    (left, top, _, _), (_, _, right, bottom) = fit.box(0, 0), fit.box(fit.rows - 1, fit.columns - 1)
    factor = math.ceil(SHORTEST / min(fit.out))
    box = (left, top, min(right, given.width), min(bottom, given.height))
    return to_rgb(given).resize((fit.out[0] * factor, fit.out[1] * factor), Image.Resampling.BICUBIC, box)


def _banded(picture: Image.Image, colour: Colour) -> Image.Image:
    banded = Image.new("RGB", (picture.width, picture.height + BAND), colour)
    banded.paste(picture, (0, BAND))
    return banded
