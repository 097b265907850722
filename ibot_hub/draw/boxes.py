"""Boxes that were found and boxes that were given, on their images."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ibot_hub.colours import Colour
from ibot_hub.draw.components import SIDE
from ibot_hub.draw.sheet import PAPER, grid, sheet, shrink
from ibot_hub.images import to_rgb

COLUMNS = 4
LINE = 3  # pixels
GIVEN: Colour = (255, 255, 255)
RIGHT: Colour = (86, 180, 233)  # sky blue and vermilion of Okabe and Ito
WRONG: Colour = (213, 94, 0)

Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image as given


def draw_boxes(
    images: Sequence[Image.Image],
    found: Sequence[Corners],
    given: Sequence[Sequence[Corners]],
    right: Sequence[bool],
    words: Sequence[str] = (),
) -> Image.Image:
    """A sheet in reading order: given boxes white, the found one blue where it is right, vermilion where it is wrong.

    Args:
        words: what stands above each image.
    """
    cells = []
    for index, (image, box, of_image) in enumerate(zip(images, found, given, strict=True)):
        picture = shrink(to_rgb(image), SIDE).copy()
        scale = picture.width / image.width, picture.height / image.height
        draw = ImageDraw.Draw(picture)
        for corners, colour in [*((each, GIVEN) for each in of_image), (box, RIGHT if right[index] else WRONG)]:
            left, top, end, bottom = (round(corner * scale[axis % 2]) for axis, corner in enumerate(corners))
            draw.rectangle((left, top, max(left, end - 1), max(top, bottom - 1)), outline=colour, width=LINE)
        cells.append(sheet([[picture]], columns=words[index : index + 1]))
    side = [max(size) for size in zip(*(cell.size for cell in cells), strict=True)]
    padded = [Image.new("RGB", (side[0], side[1]), PAPER) for _ in cells]
    for paper, cell in zip(padded, cells, strict=True):
        paper.paste(cell)
    return grid(padded, min(COLUMNS, len(cells)), gap=0)
