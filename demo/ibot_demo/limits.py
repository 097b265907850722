"""What the page takes from a person: bounds on files, checked before anything is decoded."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ibot_hub.errors import IBotError, ImageError, StoreError, UsageError
from ibot_hub.images import BROKEN, decode
from ibot_hub.patterns.atlas import MEMBER, SCHEMA, PatternAtlas, members_of, open_atlas

MAX_BYTES = 20 << 20  # of one upload
MAX_PIXELS = 40_000_000  # of one picture: 120 MB once decoded
MAX_IMAGES = 64  # in a gallery
MAX_TABLE = 200 << 20  # bytes of an atlas in memory
MAX_MEMBERS = 100  # of a pattern on one picture
MAX_SIZE = 672  # pixels of the short side, as a network sees a picture
MAX_CELL = 512  # pixels of a side of a picture in an atlas
GONE = "is gone (uploads are kept for an hour); drop it again."
NUMBERS = ("row", "column", "confidence", "width", "height")  # of a member, never null


def picture(path: str, name: str) -> Image.Image:
    """The picture at `path` as RGB, turned as its EXIF block asks; `name` is what its owner calls it.

    Raises `UsageError` where there is none, `ImageError` where it cannot be decoded or is too large.
    """
    pixels_of(path, name)
    try:
        return decode(path)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def pixels_of(path: str, name: str) -> int:
    """How many pixels the picture's header claims, 0 where it cannot be read; raises what `picture` raises for too many."""
    if not path:
        raise UsageError("There is no picture yet: drop one, or click an example.")
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise ImageError(f"{name} {GONE}") from error
    if size > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES >> 20} MB.")
    most = f"{MAX_PIXELS // 1_000_000} million are the most"
    width = height = 0
    try:
        with Image.open(path) as opened:  # reads the header alone
            width, height = opened.size
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels; {most}.") from error
    except BROKEN:
        pass  # `decode` says what is wrong with it
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width} x {height} pixels; {most}.")
    return width * height


def foreign_atlas(path: str, name: str) -> PatternAtlas:
    """An atlas that a person uploaded, less the places of its images: they would be opened on this machine, whoever owns them.

    Raises `StoreError` where it is none, too large, or carries no pictures.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            groups = [parquet.metadata.row_group(index).total_byte_size for index in range(parquet.num_row_groups)]
    except FileNotFoundError as error:
        raise StoreError(f"{name} {GONE}") from error
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{name} is not an atlas of patterns; `ibot patterns find` makes one.") from error
    if sum(groups) > MAX_TABLE:
        raise StoreError(f"{name} is too large: {MAX_TABLE >> 20} MB once unpacked are the most.")
    try:
        atlas = open_atlas(path)
    except StoreError as error:
        raise StoreError(str(error).replace(path, name)) from error
    column = atlas.table["members"].combine_chunks()
    flat = column.flatten()
    if not _is_sound(atlas, column, flat):
        raise StoreError(f"{name} holds what `ibot patterns find` never writes, or too much for the page (--size up to {MAX_SIZE}).")
    carried = [member for member in flat.field("picture").to_pylist() if member]
    if not carried:
        raise StoreError(f"{name} carries no pictures; `ibot patterns find IMAGES --pictures 100` makes an atlas that does.")
    if not all(_is_small(member) for member in carried):
        raise StoreError(f"{name} carries pictures that are no pictures of patches.")
    columns = {field.name: flat.field(field.name) for field in MEMBER} | {"location": pa.nulls(len(flat), pa.binary())}
    members = pa.ListArray.from_arrays(column.offsets, members_of(columns))
    return PatternAtlas(atlas.facts, atlas.table.set_column(SCHEMA.get_field_index("members"), "members", members))


def _is_sound(atlas: PatternAtlas, members: pa.ListArray, flat: pa.StructArray) -> bool:
    """Whether the facts and numbers that the page goes by are there, and within bounds."""
    facts = atlas.facts
    try:
        side = max(atlas.transform.fit(1, 1).out)
    except (KeyError, TypeError, ValueError, ArithmeticError, IBotError):
        return False
    needed = [members, flat, atlas.table["size"], *(flat.field(name) for name in NUMBERS)]
    return (
        isinstance(side, int)
        and side <= MAX_SIZE
        and isinstance(facts.members, int)
        and 1 <= facts.members <= MAX_MEMBERS
        and isinstance(facts.model, str)
        and not any(values.null_count for values in needed)
    )


def _is_small(encoded: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(encoded), formats=["WEBP"]) as opened:
            if max(opened.size) > MAX_CELL:
                return False
            opened.load()
            return True
    except (*BROKEN, Image.DecompressionBombError):
        return False
