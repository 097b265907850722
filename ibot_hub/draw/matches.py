"""Matched points of two images, joined by lines across the pictures side by side (Fig. 19)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ibot_hub.colours import Colour, distinct
from ibot_hub.correspondence import Floats, Matches
from ibot_hub.draw.sheet import GAP, PAPER
from ibot_hub.images import to_rgb

HEIGHT = 480  # of both pictures, pixels, or less where one of them would be wider than
WIDTH = 1600
LINE, HALO, DOT, DASH = 2, 2, 5, 9  # pixels: width of a line, white round lines and dots, radius of a dot, length of a dash
FINER = 3  # lines are drawn so many times larger, then shrunk: Pillow does not smooth them
COLOURS = 24  # told apart by eye; with more matches they come again
RIGHT: Colour = (0, 114, 178)  # blue and vermilion of Okabe and Ito
WRONG: Colour = (213, 94, 0)


def draw_matches(matches: Matches, first: Image.Image, second: Image.Image, *, right: Sequence[bool] | None = None) -> Image.Image:
    """Both images at one height, side by side, with a line for each match; the strongest lies on top.

    Args:
        matches: of these two images, points in their pixels.
        first, second: the images as they were given to `match`, decoded.
        right: where the truth is known, whether each match is right: then right ones are blue, wrong ones vermilion and dashed.
            Without it each match has a colour of its own.
    """
    height = min([HEIGHT, *(max(1, round(WIDTH * image.height / image.width)) for image in (first, second))])
    pictures = [_at_height(image, height) for image in (first, second)]
    offset = pictures[0].width + GAP
    paper = Image.new("RGB", (offset + pictures[1].width, height), PAPER)
    paper.paste(pictures[0], (0, 0))
    paper.paste(pictures[1], (offset, 0))
    starts = _in_picture(matches.first, first, pictures[0])
    ends = _in_picture(matches.second, second, pictures[1]) + np.array([offset, 0])
    palette = distinct(min(len(starts), COLOURS))
    truth = [True] * len(starts) if right is None else right
    layer = Image.new("RGBA", (paper.width * FINER, height * FINER), (*PAPER, 0))
    draw = ImageDraw.Draw(layer)
    colours = [palette[index % COLOURS] if right is None else RIGHT if true else WRONG for index, true in enumerate(truth)]
    pairs = list(zip(starts * FINER, ends * FINER, colours, truth, strict=True))[::-1]
    for start, end, colour, true in pairs:
        _draw_line(draw, start, end, colour, dashed=not true)
    for start, end, colour, _ in pairs:  # above all lines, so that none hides where another ends
        _draw_dots(draw, (start, end), colour)
    paper.paste(layer := layer.reduce(FINER), mask=layer)
    return paper


def _at_height(image: Image.Image, height: int) -> Image.Image:
    """RGB, `height` pixels high, and at most WIDTH wide."""
    width = min(WIDTH, max(1, round(image.width * height / image.height)))
    return to_rgb(image).resize((width, height), Image.Resampling.LANCZOS)


def _in_picture(points: Floats, image: Image.Image, picture: Image.Image) -> Floats:
    """[n, 2] in pixels of the image -> [n, 2] in pixels of the picture made of it."""
    scaled: Floats = points * np.array(picture.size) / image.size
    return scaled


def _draw_line(draw: ImageDraw.ImageDraw, start: Floats, end: Floats, colour: Colour, *, dashed: bool) -> None:
    """White on both sides of it."""
    draw.line([*start, *end], PAPER, (LINE + 2 * HALO) * FINER + 1)  # odd, so that both sides are alike
    length = float(np.linalg.norm(end - start))
    pieces = max(1, round(length / (DASH * FINER))) if dashed else 1
    stops = np.linspace(start, end, pieces + 1)
    for piece in range(0, pieces, 2):
        draw.line([*stops[piece], *stops[piece + 1]], colour, LINE * FINER + 1)


def _draw_dots(draw: ImageDraw.ImageDraw, points: Sequence[Floats], colour: Colour) -> None:
    """White round them."""
    for x, y in points:
        for fill, radius in ((PAPER, (DOT + HALO) * FINER), (colour, DOT * FINER)):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill)
