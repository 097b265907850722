"""Members of an atlas -> pictures of their patches with what is around them, from the atlas itself or from where the images are."""

import io
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageStat
from tqdm import tqdm

from ibot_hub.devices import own_cores
from ibot_hub.errors import ImageError
from ibot_hub.fit import Fit
from ibot_hub.images import decode
from ibot_hub.patterns.atlas import Member, PatternAtlas

T = TypeVar("T")

CONTEXT = 2  # patches on each side: 5 x 5, as in the paper
DARK = 40  # mean value (of hue, saturation, value) up to which the official implementation leaves a crop out
CELL = 80  # pixels: five patches of 16, as the official implementation draws them
QUALITY = 75  # of WebP


@dataclass(frozen=True, eq=False)
class Layout:
    """The members of one pattern as pictures, the most confident first."""

    pattern: int
    size: int  # patches that went to the pattern
    of: str  # "patches": each picture has its patch in the middle of 5 x 5; "cls": whole images
    members: Sequence[Member]
    pictures: Sequence[Image.Image]  # of these members
    problems: Sequence[str]  # path and reason of each image that should have been shown and could not


def layouts(atlas: PatternAtlas, patterns: Sequence[int], count: int | None = None, side: int = CELL) -> list[Layout]:
    """The first `count` members of each pattern that are not too dark and can be shown; default: as many as the atlas was made for.

    An atlas with pictures of a pattern shows those; else the images are read from where they were, each once. As in the official
    implementation, at most twice as many members are looked at as are wanted, and what lies outside of an image is black.

    Args:
        patterns: their numbers; UsageError for one that does not exist.
        side: of a picture in pixels; the longer one where it is not square.
    """
    wanted = count or atlas.facts.members
    members = [_shown(atlas.members(pattern))[: 2 * wanted] for pattern in patterns]
    crops = iter(_crops(atlas, [member for several in members for member in several], side, lambda picture: picture))
    answer = []
    for pattern, several in zip(patterns, members, strict=True):
        shown: list[tuple[Member, Image.Image]] = []
        problems = []
        for member, crop in [(member, next(crops)) for member in several]:
            if isinstance(crop, str) and len(shown) < wanted:
                problems.append(f"{member.path}: {crop}")
            elif isinstance(crop, Image.Image) and len(shown) < wanted:
                shown.append((member, crop))
        pictures = [picture for _, picture in shown]
        kept = [member for member, _ in shown]
        answer.append(Layout(pattern, int(atlas.sizes[pattern]), atlas.facts.of, kept, pictures, problems))
    return answer


def carry_pictures(atlas: PatternAtlas, count: int, side: int = CELL) -> PatternAtlas:
    """The atlas with pictures of the `count` largest patterns inside: of each the members that a layout shows, as WebP.

    Where these images are is left out then, so an atlas with pictures of all patterns names no folder of this machine.
    """
    patterns = atlas.top(count)
    members = [atlas.members(pattern) for pattern in patterns]
    crops = iter(_crops(atlas, [member for several in members for member in several], side, _encoded))
    pictures = {}
    for pattern, several in zip(patterns, members, strict=True):
        encoded: list[bytes | None] = []
        for crop in [next(crops) for _ in several]:
            room = sum(picture is not None for picture in encoded) < atlas.facts.members
            encoded.append(crop if room and isinstance(crop, bytes) else None)
        pictures[pattern] = encoded
    return atlas.with_pictures(pictures)


def crop(image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
    """The part of an image in a box (left, top, right, bottom) in its pixels, resized; what lies outside is black."""
    left, top, right, bottom = box
    inside = (max(left, 0.0), max(top, 0.0), min(right, image.width), min(bottom, image.height))
    x = [round((edge - left) / (right - left) * size[0]) for edge in inside[::2]]
    y = [round((edge - top) / (bottom - top) * size[1]) for edge in inside[1::2]]
    paper = Image.new("RGB", size)
    if x[0] < x[1] and y[0] < y[1]:
        paper.paste(image.resize((x[1] - x[0], y[1] - y[0]), Image.Resampling.BICUBIC, inside), (x[0], y[0]))
    return paper


def is_dark(picture: Image.Image) -> bool:
    """Whether the official implementation would leave a crop out."""
    return ImageStat.Stat(picture.convert("HSV").getchannel("V")).mean[0] <= DARK


def _shown(members: Sequence[Member]) -> list[Member]:
    """The members that have a picture, where any has; else all."""
    return [member for member in members if member.picture is not None] or list(members)


def _crops(atlas: PatternAtlas, members: Sequence[Member], side: int, convert: Callable[[Image.Image], T]) -> list[T | str | None]:
    """For each member its converted picture, None where it is too dark, or why there is none; every image is read once."""
    transform, whole = atlas.transform, atlas.facts.of == "cls"
    groups: dict[object, list[int]] = {}
    for index, member in enumerate(members):
        key = (member.entry.location, member.entry.offset) if member.entry else index
        groups.setdefault(key, []).append(index)

    def of_group(indices: list[int]) -> list[T | str | None]:
        first = members[indices[0]]
        if first.picture is not None:
            return [convert(_scaled(first.picture, side))]
        try:
            image = _read(first)
        except ImageError as error:
            return [str(error)] * len(indices)
        fit = transform.fit(*image.size)
        pictures = [_picture(image, fit, members[index], side) for index in indices]
        return [None if not whole and is_dark(picture) else convert(picture) for picture in pictures]

    answer: list[T | str | None] = [None] * len(members)
    with (
        ThreadPoolExecutor(own_cores()) as executor,
        tqdm(total=len(groups), unit="img", desc="reading", file=sys.stderr, disable=None) as bar,
    ):
        for indices, crops in zip(groups.values(), executor.map(of_group, groups.values()), strict=True):
            for index, found in zip(indices, crops, strict=True):
                answer[index] = found
            bar.update()
    return answer


def _read(member: Member) -> Image.Image:
    """The image of a member. Raises ImageError where it cannot be had as it was."""
    if member.entry is None:
        raise ImageError("the atlas holds neither its picture nor where it is")
    image = decode(member.entry.read())
    if image.size != (member.width, member.height):
        raise ImageError(f"it is {image.width} x {image.height} pixels now, and was {member.width} x {member.height}")
    return image


def _picture(image: Image.Image, fit: Fit, member: Member, side: int) -> Image.Image:
    if member.row >= 0:
        return crop(image, fit.box(member.row, member.column, CONTEXT), (side, side))
    left, top, _, _ = fit.box(0, 0)
    _, _, right, bottom = fit.box(fit.rows - 1, fit.columns - 1)
    longest = max(fit.out)
    width, height = (max(1, math.ceil(side * length / longest)) for length in fit.out)
    return crop(image, (left, top, right, bottom), (width, height))


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    """A picture whose longer side becomes `side`."""
    factor = side / max(picture.size)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()
