"""What the page takes from a person: bounds on files, checked before anything is decoded."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ibot_hub.atlas import MEMBER, SCHEMA, PatternAtlas, members_of, open_atlas
from ibot_hub.errors import ImageError, StoreError, UsageError
from ibot_hub.images import BROKEN, decode

MAX_BYTES = 20 << 20  # of one upload
MAX_PIXELS = 40_000_000  # of one picture: 120 MB once decoded
MAX_IMAGES = 64  # in a gallery
MAX_TABLE = 200 << 20  # bytes of an atlas in memory
MAX_CELL = 512  # pixels of a side of a picture in an atlas


def picture(path: str, name: str) -> Image.Image:
    """The picture at `path` as RGB, turned as its EXIF block asks; `name` is what its owner calls it.

    Raises `UsageError` where there is none, `ImageError` where it cannot be decoded or is too large.
    """
    if not path:
        raise UsageError("There is no picture yet: drop one, or click an example.")
    if Path(path).stat().st_size > MAX_BYTES:
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
    try:
        return decode(path)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def foreign_atlas(path: str, name: str) -> PatternAtlas:
    """An atlas that a person uploaded, less the places of its images: they would be opened on this machine, whoever owns them.

    Raises `StoreError` where it is none, too large, or carries no pictures.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            groups = [parquet.metadata.row_group(index).total_byte_size for index in range(parquet.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{name} is not an atlas of patterns; `ibot patterns find` makes one.") from error
    if sum(groups) > MAX_TABLE:
        raise StoreError(f"{name} is too large: {MAX_TABLE >> 20} MB once unpacked are the most.")
    try:
        atlas = open_atlas(path)
    except StoreError as error:
        raise StoreError(str(error).replace(path, name)) from error
    column = atlas.table["members"].combine_chunks()
    flat = column.values
    carried = [member for member in flat.field("picture").to_pylist() if member]
    if not carried:
        raise StoreError(f"{name} carries no pictures; `ibot patterns find IMAGES --pictures 100` makes an atlas that does.")
    if not all(_is_small(member) for member in carried):
        raise StoreError(f"{name} carries pictures that are no pictures of patches.")
    columns = {field.name: flat.field(field.name) for field in MEMBER} | {"location": pa.nulls(len(flat), pa.binary())}
    members = pa.ListArray.from_arrays(column.offsets, members_of(columns))
    return PatternAtlas(atlas.facts, atlas.table.set_column(SCHEMA.get_field_index("members"), "members", members))


def _is_small(encoded: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(encoded), formats=["WEBP"]) as opened:
            return max(opened.size) <= MAX_CELL
    except (*BROKEN, Image.DecompressionBombError):
        return False
