"""What an index answered becomes a contact sheet: the query at the left, the hits beside it, best first."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ibot_hub.draw.sheet import INK, PAPER, sheet, shrink
from ibot_hub.errors import ImageError
from ibot_hub.fit import Fit
from ibot_hub.images import ImageLike, as_images, to_rgb
from ibot_hub.retrieval.neighbours import Hit, Hits

CELL = 168  # pixels of the side of a picture
COLUMNS = 5
LINE = 17  # pixels of a line of words
FONT = 13  # pixels
CONTEXT = 4  # patches shown on each side of the one that was found
EMPTY, QUIET = (240, 240, 242), (128, 128, 134)
MARK, HALO = (230, 159, 0), (255, 255, 255)
Box = tuple[float, float, float, float]  # left, top, right, bottom


def draw_hits(image: ImageLike, hits: Hits) -> Image.Image:
    """A sheet: the query, then the hits in reading order, each with its rank, its cosine and the end of its name.

    Of patches, the query is shown whole and near, each hit near, with the patch framed. An image that is gone, or another by
    now, leaves an empty cell with its name and the reason.

    Args:
        image: the query, as it was given to `search`.
        hits: what `search` answered.
    """
    query = to_rgb(as_images(image)[0])
    whole = shrink(query, CELL)
    if hits.patch is None:
        asked = [_cell(whole, ["query"])]
    else:
        scale = (whole.width / hits.fit.width, whole.height / hits.fit.height)
        left, top, right, bottom = hits.fit.box(*hits.patch)
        _frame(whole, (left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]))
        asked = [_cell(whole, ["query"]), _cell(_near(query, hits.fit, hits.patch), [f"row {hits.patch[0]}, column {hits.patch[1]}"])]
    found = [_hit(rank, hit) for rank, hit in enumerate(hits.hits, 1)]
    nothing = Image.new("RGB", (1, 1), PAPER)
    rows = [
        [*asked[row : row + 1], *[nothing] * (row >= len(asked)), nothing, *found[COLUMNS * row : COLUMNS * (row + 1)]]
        for row in range(max(len(asked), -(-len(found) // COLUMNS)))
    ]
    return sheet(rows)


def _hit(rank: int, hit: Hit) -> Image.Image:
    words = [f"{rank}.  {hit.score:.3f}", hit.path]
    try:
        picture = hit.read()
    except ImageError as error:
        picture = Image.new("RGB", (CELL, CELL), EMPTY)
        ImageDraw.Draw(picture).text((CELL / 2, CELL / 2), _shortened(str(error)), QUIET, _font(), anchor="mm")
        return _cell(picture, words)
    return _cell(shrink(picture, CELL) if hit.patch is None else _near(picture, hit.fit, hit.patch), words)


def _near(image: Image.Image, fit: Fit, patch: tuple[int, int]) -> Image.Image:
    """A framed patch in the middle of its surroundings; what lies outside of the image is empty."""
    left, top, right, bottom = fit.box(*patch, context=CONTEXT)
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    scale = (CELL / (right - left), CELL / (bottom - top))
    corners = [round((corner - (left, top)[axis % 2]) * scale[axis % 2]) for axis, corner in enumerate(inside)]
    picture = Image.new("RGB", (CELL, CELL), EMPTY)
    size = (max(1, corners[2] - corners[0]), max(1, corners[3] - corners[1]))
    picture.paste(image.resize(size, Image.Resampling.BICUBIC, inside), (corners[0], corners[1]))
    side = CELL / (2 * CONTEXT + 1)
    _frame(picture, (CONTEXT * side, CONTEXT * side, (CONTEXT + 1) * side, (CONTEXT + 1) * side))
    return picture


def _frame(picture: Image.Image, box: Box) -> None:
    """Draw a frame round a box, which itself stays free; white outside of it, so that it is seen on any ground."""
    left, top, right, bottom = (round(corner) for corner in box)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 3, top - 3, right + 2, bottom + 2), outline=HALO)
    draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=MARK, width=2)


def _cell(picture: Image.Image, words: Sequence[str]) -> Image.Image:
    """A picture in the middle of a square, and two lines for words below it."""
    paper = Image.new("RGB", (CELL, CELL + 2 * LINE + 4), PAPER)
    paper.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    draw = ImageDraw.Draw(paper)
    for index, (line, colour) in enumerate(zip(words, (INK, QUIET), strict=False)):
        draw.text((CELL / 2, CELL + (index + 0.7) * LINE), _shortened(line), colour, _font(), anchor="mm")
    return paper


def _shortened(words: str) -> str:
    """The words, or an ellipsis and as many of the last letters as fit: of a path, the name of the file."""
    if _font().getlength(words) <= CELL:
        return words
    while words and _font().getlength("…" + words) > CELL:
        words = words[1:]
    return "…" + words


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT)
