"""Pictures laid out on white paper, with words above the columns or left of the rows."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (255, 255, 255), (60, 60, 67)
GAP = 8  # pixels round every picture
FONT = 15  # pixels


def sheet(rows: Sequence[Sequence[Image.Image]], *, columns: Sequence[str] = (), labels: Sequence[str] = (), gap: int = GAP) -> Image.Image:
    """Rows of pictures, each centred in its cell: a column is as wide as its widest picture, a row as high as its highest.

    Args:
        rows: pictures by row and column; rows may have different lengths.
        columns: words above the columns, from the first one on; long ones are cut to the width of the column.
        labels: words left of the rows.
        gap: white pixels round every picture.
    """
    count = max((len(row) for row in rows), default=0)
    widths = [max((row[k].width for row in rows if k < len(row)), default=0) for k in range(count)]
    heights = [max((picture.height for picture in row), default=0) for row in rows]
    margin = max((int(_font().getlength(label)) + gap for label in labels), default=0)
    head = FONT + gap if columns else 0
    paper = Image.new(
        "RGB", (margin + gap + sum(width + gap for width in widths), head + gap + sum(height + gap for height in heights)), PAPER
    )
    draw = ImageDraw.Draw(paper)
    top = head + gap
    for index, row in enumerate(rows):
        left = margin + gap
        for picture, width in zip(row, widths, strict=False):
            paper.paste(picture, (left + (width - picture.width) // 2, top + (heights[index] - picture.height) // 2))
            left += width + gap
        if index < len(labels):
            draw.text((margin, top + heights[index] / 2), labels[index], INK, _font(), anchor="rm")
        top += heights[index] + gap
    left = margin + gap
    for words, width in zip(columns, widths, strict=False):
        draw.text((left + width / 2, gap + FONT / 2), _cut(words, width + gap), INK, _font(), anchor="mm")
        left += width + gap
    return paper


def grid(pictures: Sequence[Image.Image], columns: int, *, gap: int = GAP) -> Image.Image:
    """Pictures in reading order, `columns` a row."""
    return sheet([pictures[first : first + columns] for first in range(0, len(pictures), columns)], gap=gap)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT)


def _cut(words: str, width: int) -> str:
    """The words, or as many of their first letters as fit, and an ellipsis."""
    if _font().getlength(words) <= width:
        return words
    while words and _font().getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with a long side of `side` pixels; one that has it already stays as it is."""
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
