"""An atlas: which patches of which images each pattern gathers, in one file that opens without the model."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.images import ImageTransform
from ibot_hub.listing import Entry
from ibot_hub.writing import whole

KEY = "ibot_hub"  # of the Parquet metadata: kind, format and facts, as JSON
KIND, FORMAT = "pattern atlas", 1
EMBEDDED = Path(__file__).parents[1] / "embedded" / "atlas.parquet"
ROW_GROUP = 1024  # patterns

MEMBER = pa.struct(
    [
        ("path", pa.string()),  # in the source, valid UTF-8
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("confidence", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("location", pa.binary()),  # absolute; null where a picture is in its place
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("picture", pa.binary()),  # WebP
    ]
)
SCHEMA = pa.schema(
    [
        ("pattern", pa.int32()),
        ("size", pa.int64()),
        ("centre", pa.float32()),  # null where raw logits decide
        ("members", pa.list_(MEMBER)),
    ]
)


@dataclass(frozen=True, kw_only=True)
class AtlasFacts:
    """How an atlas was found."""

    model: str
    arch: str
    network: str | None
    head: str  # sha256 of the head's last layer in bfloat16
    of: Literal["patches", "cls"]  # cls: whole images
    confidence: str  # "logit" or "probability"
    temperature: float | None  # of the probability
    members: int  # that a layout shows; up to twice as many are kept of patches
    per_image: int  # patches that a pattern takes from one image
    images: int  # that were read
    failed: int  # that could not be read
    failures: Sequence[Sequence[str]]  # the first of them: path, reason
    source: str  # as it was given
    listing: str  # digest of the listing
    preprocessing: Mapping[str, Any]  # size, resize, patch, mean, std
    dtype: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Member:
    """One patch of a pattern, or with `of` "cls" one image."""

    path: str  # of the image in the source
    row: int  # of the patch; -1: the whole image
    column: int
    confidence: float
    width: int  # pixels of the image as it was
    height: int
    entry: Entry | None  # where the image was; None where the atlas has pictures of this pattern
    picture: Image.Image | None  # the patch in the middle of 5 x 5, or the image; None where the atlas has none


@dataclass(frozen=True, eq=False, repr=False)
class PatternAtlas:
    """Every pattern of a head with the patches it gathers; `find_patterns` makes one, `open_atlas` opens one."""

    facts: AtlasFacts
    table: pa.Table  # SCHEMA, a row a pattern; path and location may be dictionary-encoded, which is far smaller

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[K]: how many patches (or images) went to each pattern."""
        return np.asarray(self.table["size"].to_numpy())

    @property
    def centre(self) -> npt.NDArray[np.float32] | None:
        """[K]: what was taken from the logits; None where raw logits decided."""
        return None if self.table["centre"].null_count else np.asarray(self.table["centre"].to_numpy())

    @property
    def transform(self) -> ImageTransform:
        """How the images were prepared."""
        facts = dict(self.facts.preprocessing)
        return ImageTransform(facts["size"], facts["resize"], facts["patch"], tuple(facts["mean"]), tuple(facts["std"]))

    def __repr__(self) -> str:
        patterns = f"{len(self.table):,} patterns of {self.facts.of}, {(self.sizes > 0).sum():,} of them used"
        return f"PatternAtlas({self.facts.model}, {patterns}, {self.facts.images:,} images)"

    def members(self, pattern: int) -> list[Member]:
        """The kept members of a pattern, the most confident first. Raises UsageError where there is no such pattern."""
        if not 0 <= pattern < len(self.table):
            raise UsageError(f"Pattern {pattern} does not exist; this atlas has {len(self.table):,}, from 0 on.")
        return [_member(facts) for facts in self.table["members"][pattern].as_py()]

    def top(self, count: int) -> list[int]:
        """The `count` patterns of the largest size, the largest first, of equals the first; empty ones are left out."""
        sizes = self.sizes
        return [int(pattern) for pattern in np.argsort(-sizes, kind="stable")[:count] if sizes[pattern]]

    def with_pictures(self, pictures: Mapping[int, Sequence[bytes | None]]) -> "PatternAtlas":
        """The atlas with a WebP or None for each member of some patterns, which need no location any more."""
        column = self.table["members"].combine_chunks()
        offsets, flat = column.offsets.to_numpy(), column.values
        encoded: list[bytes | None] = [None] * len(flat)
        without = np.zeros(len(flat), bool)
        for pattern, members in pictures.items():
            encoded[offsets[pattern] : offsets[pattern + 1]] = members
            without[offsets[pattern] : offsets[pattern + 1]] = True
        location = pc.if_else(pa.array(without), pa.scalar(None, pa.binary()), flat.field("location").cast(pa.binary()))
        changed = {"picture": pa.array(encoded, pa.binary()), "location": location}
        values = members_of({field.name: changed.get(field.name, flat.field(field.name)) for field in MEMBER})
        members = pa.ListArray.from_arrays(column.offsets, values)
        return PatternAtlas(self.facts, self.table.set_column(SCHEMA.get_field_index("members"), "members", members))

    def save(self, file: str | Path) -> None:
        """Write the atlas into one file, whole or not at all; one that is there is replaced. Raises StoreError if it cannot be written."""
        target = Path(file)
        record = json.dumps({"kind": KIND, "format": FORMAT, **asdict(self.facts)})
        schema, text = SCHEMA.with_metadata({KEY: record}), [f"members.list.element.{name}" for name in ("path", "location")]
        with (
            whole(target) as file,
            pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=text, write_page_checksum=True) as writer,
        ):
            for start in range(0, len(self.table), ROW_GROUP):
                rows = np.arange(start, min(start + ROW_GROUP, len(self.table)))
                writer.write_table(self.table.take(rows).cast(schema))  # of a slice, all members would be cast


def members_of(columns: Mapping[str, pa.Array]) -> pa.StructArray:
    """Members by the columns of MEMBER, as they are."""
    return pa.StructArray.from_arrays([columns[field.name] for field in MEMBER], names=[field.name for field in MEMBER])


def check_out(file: Path, *, overwrite: bool) -> None:
    """Raises StoreError if an atlas could not be written there, or another file would be lost; call it before the long work."""
    if file.is_dir() or (file.exists() and not overwrite):
        raise StoreError(f"{file} is {'a folder' if file.is_dir() else 'there already'}; choose another --out{_or_overwrite(file)}.")
    folder = file.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{folder} is no folder that can be written; choose another --out.")


def _or_overwrite(file: Path) -> str:
    return "" if file.is_dir() else ", or --overwrite to replace it"


def open_atlas(file: str | Path) -> PatternAtlas:
    """The atlas in a file. Raises StoreError where there is none, or it is damaged, or of a later format."""
    anew = "`ibot patterns find IMAGES` makes one"
    try:
        if Path(file).is_dir():
            raise StoreError(f"{file} is a folder, not an atlas of patterns; {anew}.")
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            facts = _record(parquet)
            if facts is None:
                raise StoreError(f"{file} is not an atlas of patterns; {anew}.")
            format = facts.pop("format", None)
            if format != FORMAT:
                raise StoreError(f"{file} is an atlas of format {format}, and this ibot-hub reads format {FORMAT}; install a later one.")
            table = pa.concat_tables([parquet.read_row_group(group) for group in range(parquet.num_row_groups)]).cast(SCHEMA)
        return PatternAtlas(AtlasFacts(**facts), table)
    except FileNotFoundError as error:
        raise StoreError(f"There is no {file}; {anew}.") from error
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{file} is not an atlas of patterns, or is damaged or cut off; {anew}.") from error


def _record(parquet: pq.ParquetFile) -> dict[str, Any] | None:
    """The facts of an atlas; None where the file is something else."""
    text = (parquet.metadata.metadata or {}).get(KEY.encode())
    facts = json.loads(text) if text else None
    return facts if isinstance(facts, dict) and facts.pop("kind", None) == KIND else None


def embedded_atlas() -> PatternAtlas:
    """The atlas of the embedded model, with pictures of example photographs inside."""
    return open_atlas(EMBEDDED)


def _member(facts: Mapping[str, Any]) -> Member:
    entry = None
    if facts["location"] is not None:
        entry = Entry(facts["path"], os.fsdecode(facts["location"]), facts["offset"], facts["bytes"])
    picture = Image.open(io.BytesIO(facts["picture"])).convert("RGB") if facts["picture"] is not None else None
    own = {name: facts[name] for name in ("path", "row", "column", "confidence", "width", "height")}
    return Member(**own, entry=entry, picture=picture)
