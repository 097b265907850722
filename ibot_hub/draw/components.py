"""Components become pictures: each image beside the colours of its patches."""

from collections.abc import Sequence

from PIL import Image, ImageEnhance

from ibot_hub.draw.sheet import grid, sheet, shrink
from ibot_hub.pca import ComponentMap

SIDE = 288  # pixels of the long side of an image on a sheet
COLUMNS = 3  # of pairs
DIM = 0.35  # of the brightness of the image where it is background


def draw_components(
    images: Sequence[Image.Image], maps: Sequence[ComponentMap], names: Sequence[str] = (), *, side: int = SIDE
) -> Image.Image:
    """A sheet of pairs in reading order: an image, and the colours of its patches.

    Args:
        images: RGB, as they were given to `components`.
        maps: of these images.
        names: what stands above each pair.
        side: pixels of the long side of each picture.
    """
    pairs = []
    for index, (image, of_image) in enumerate(zip(images, maps, strict=True)):
        small = shrink(image, side)
        pairs.append(sheet([[small, draw_colours(small, of_image)]], columns=names[index : index + 1]))
    return grid(pairs, min(COLUMNS, len(pairs)))


def draw_colours(image: Image.Image, of_image: ComponentMap) -> Image.Image:
    """An image of any size in dark grey, and over it its patches in the colours of their components, where they are foreground."""
    fit = of_image.fit
    paper = ImageEnhance.Brightness(image.convert("L")).enhance(DIM).convert("RGB")
    scale = (image.width / fit.width, image.height / fit.height)
    corners = (*fit.box(0, 0)[:2], *fit.box(fit.rows - 1, fit.columns - 1)[2:])
    left, top, right, bottom = (round(corner * scale[axis % 2]) for axis, corner in enumerate(corners))
    colours, mask = (
        Image.fromarray(values.numpy()).resize((right - left, bottom - top), Image.Resampling.NEAREST)
        for values in (of_image.colours, of_image.foreground.byte() * 255)
    )
    paper.paste(colours, (left, top), mask)
    return paper
