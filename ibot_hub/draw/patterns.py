"""Patterns as layouts: the patches that one gathers, marked among what is around them."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ibot_hub.colours import Colour, distinct
from ibot_hub.draw.sheet import FONT, PAPER, grid, sheet
from ibot_hub.images import ImageLike, as_images, to_rgb
from ibot_hub.patterns.atlas import PatternAtlas
from ibot_hub.patterns.finding import Composition
from ibot_hub.patterns.layouts import CELL, CONTEXT, Layout, layouts

Box = list[int]  # left, top, right, bottom in pixels

MARK: Colour = (255, 150, 0)  # the paper colours the patch orange
EMPTY: Colour = (242, 242, 244)
SMALL, SIDE = 40, 3  # pixels of a picture in an overview, and pictures a row
SEAM, FRAME, TAG = 2, 3, 18  # pixels between pictures, of a coloured frame, and of the number beside a patch
IMAGE = 480  # pixels of the longer side of a composed image


def draw_pattern(atlas: PatternAtlas, pattern: int, count: int | None = None, *, side: int = CELL) -> Image.Image:
    """One pattern's layout (Fig. 4, 13, 14; of [CLS] 17): its members in a square, the most confident first, six by six for 36.

    Args:
        count: how many; default: as many as the atlas was made for.
        side: of a picture in pixels.
    """
    return draw_layout(layouts(atlas, [pattern], count, side)[0], side=side)


def draw_top(atlas: PatternAtlas, count: int = 100, *, columns: int = 10) -> Image.Image:
    """The largest patterns, the largest first, each as a layout of three by three."""
    return draw_overview(layouts(atlas, atlas.top(count), SIDE * SIDE, SMALL), columns=columns)


def draw_composition(image: ImageLike, composition: Composition, atlas: PatternAtlas, count: int | None = None) -> Image.Image:
    """An image with the patches of its composition marked, and round it the layout of each, in the same colour (Fig. 15)."""
    several = layouts(atlas, [part.pattern for part in composition.parts], count, SMALL)
    return draw_parts(image, composition, several)


def draw_layout(layout: Layout, *, side: int = CELL) -> Image.Image:
    """A layout under its number and size."""
    what = "patches" if layout.of == "patches" else "images"
    columns = max(2, math.ceil(math.sqrt(len(layout.pictures))))
    return _titled(_square(layout, side, columns, 1, MARK), f"#{layout.pattern}: {layout.size:,} {what}")


def draw_overview(several: Sequence[Layout], *, columns: int = 10) -> Image.Image:
    """Many layouts, small, each under its number and size."""
    rows = max((_rows(layout, SIDE) for layout in several), default=1)
    return grid(
        [_titled(_square(layout, SMALL, SIDE, rows, MARK), f"#{layout.pattern}: {layout.size:,}") for layout in several], columns, gap=4
    )


def draw_parts(image: ImageLike, composition: Composition, several: Sequence[Layout]) -> Image.Image:
    """What `draw_composition` gives, from the layouts of the composition's patterns."""
    colours = distinct(len(several))
    columns = max([5, *(math.ceil(math.sqrt(len(layout.pictures))) for layout in several)])
    panels = [
        _titled(_framed(_square(layout, SMALL, columns, 1, colour), colour), f"{index}: #{layout.pattern}, {layout.size:,} patches")
        for index, (layout, colour) in enumerate(zip(several, colours, strict=True), 1)
    ]
    (picture,) = as_images(image)
    return sheet([[_stacked(panels[::2]), _marked(picture, composition, colours), _stacked(panels[1::2])]], gap=4)


def _rows(layout: Layout, columns: int) -> int:
    return max(1, math.ceil(len(layout.pictures) / columns))


def _square(layout: Layout, side: int, columns: int, least: int, mark: Colour) -> Image.Image:
    """The pictures of a layout in reading order, each with its patch framed, in `least` rows or more; an empty place is grey."""
    rows = max(least, _rows(layout, columns))
    paper = Image.new("RGB", (columns * (side + SEAM) + SEAM, rows * (side + SEAM) + SEAM), PAPER)
    draw = ImageDraw.Draw(paper)
    for index in range(rows * columns):
        left, top = SEAM + index % columns * (side + SEAM), SEAM + index // columns * (side + SEAM)
        if index >= len(layout.pictures):
            draw.rectangle([left, top, left + side - 1, top + side - 1], EMPTY)
            continue
        picture = layout.pictures[index]
        paper.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        if layout.of == "patches":
            first, last = (round(side * edge / (2 * CONTEXT + 1)) for edge in (CONTEXT, CONTEXT + 1))
            line = max(1, side // 40)  # outside of the patch, so that all of it is seen
            box = [left + first - line, top + first - line, left + last + line - 1, top + last + line - 1]
            draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="black")  # seen on any ground
            draw.rectangle(box, outline=mark, width=line)
    return paper


def _titled(picture: Image.Image, words: str) -> Image.Image:
    """A picture under words, on paper wide enough for them."""
    width = max(picture.width, math.ceil(ImageFont.load_default(FONT).getlength(words)))
    paper = Image.new("RGB", (width, picture.height), PAPER)
    paper.paste(picture, ((width - picture.width) // 2, 0))
    return sheet([[paper]], columns=[words], gap=4)


def _framed(picture: Image.Image, colour: Colour) -> Image.Image:
    return ImageOps.expand(picture, FRAME, colour)


def _stacked(panels: Sequence[Image.Image]) -> Image.Image:
    return grid(panels, 1, gap=0)


def _marked(picture: Image.Image, composition: Composition, colours: Sequence[Colour]) -> Image.Image:
    """The image, enlarged or shrunk, with each patch framed and numbered."""
    factor = IMAGE / max(picture.size)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    marked = to_rgb(picture).resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(marked)
    font = ImageFont.load_default(FONT)
    frames = [_grown([round(edge * factor) for edge in composition.fit.box(part.row, part.column)], FRAME) for part in composition.parts]
    for frame, colour in reversed(list(zip(frames, colours, strict=True))):  # the first lies on top
        draw.rectangle(_inclusive(_grown(frame, 1)), outline="black")
        draw.rectangle(_inclusive(frame), outline=colour, width=FRAME)
    taken = list(frames)
    for index, (frame, colour) in enumerate(zip(frames, colours, strict=True), 1):
        tag = _free_place(frame, taken, marked.size)
        taken.append(tag)
        draw.rectangle(_inclusive(tag), fill=colour, outline="black")
        draw.text((tag[0] + TAG / 2, tag[1] + TAG / 2), str(index), "black" if _light(colour) else "white", font, anchor="mm")
    return marked


def _free_place(frame: Box, taken: Sequence[Box], size: tuple[int, int]) -> Box:
    """Where the number of a patch hides nothing: right of it, left, below or above; where there is no such place, right."""
    left, top, right, bottom = frame
    corners = [(right, top), (left - TAG, top), (left, bottom), (left, top - TAG)]
    places = [[x, y, x + TAG, y + TAG] for x, y in corners]
    free = [place for place in places if not any(_meet(place, other) for other in taken) and _within(place, size)]
    return (free or [place for place in places if _within(place, size)] or places)[0]


def _within(box: Box, size: tuple[int, int]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _grown(box: Box, by: int) -> Box:
    return [box[0] - by, box[1] - by, box[2] + by, box[3] + by]


def _inclusive(box: Box) -> Box:
    """As Pillow draws rectangles: with the last row and column."""
    return [box[0], box[1], box[2] - 1, box[3] - 1]


def _light(colour: Colour) -> bool:
    """Whether black words are read better on it than white ones."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 128
