"""A source becomes a numbered list on disk, which is never held in memory."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ibot_hub.errors import ImageError, SourceError, StoreError
from ibot_hub.images import opened
from ibot_hub.sources import kind_of, named, rows_of, shown

KEY = "ibot_hub"  # of the Parquet metadata: source and digest, as JSON
ROW_GROUP = 65_536  # rows that are held in memory at once
MAX_BYTES = 1 << 30  # of one encoded image, read whole: 16-bit RGB at the limit of pixels
SCHEMA = pa.schema([("name", pa.binary()), ("location", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())])


@dataclass(frozen=True)
class Entry:
    """One image of a listing; names are as the system gives them, with surrogate escapes for bytes that are no UTF-8."""

    name: str  # relative to the folder or as written in the list; shard.tar/member in a shard
    location: str  # absolute path of the file, or of its shard
    offset: int = -1  # bytes into the shard; -1: the file is the image
    size: int = -1  # bytes in the shard

    @property
    def shown(self) -> str:
        """The name as valid UTF-8, with any other byte as \\xNN."""
        return shown(self.name)

    def read(self) -> bytes:
        """The encoded image. Raises `ImageError` with a reason that names no path."""
        with opened(self.location) as stream:
            size = self.size if self.offset >= 0 else stream.seek(0, os.SEEK_END)
            if size > MAX_BYTES:
                raise ImageError(f"it has {size} bytes, more than {MAX_BYTES}")
            stream.seek(max(self.offset, 0))
            data = stream.read(size)
        if len(data) < size:
            raise ImageError("the shard ends before it does")
        return data


@dataclass(frozen=True)
class Listing:
    """The images of a source, numbered from 0."""

    file: Path
    count: int
    digest: str  # sha256 of names and byte ranges; of a list also of where its paths lead
    source: str

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Images start to stop - 1, as far as there are any; only their row groups are read."""
        groups = range(start // ROW_GROUP, -(-min(stop, self.count) // ROW_GROUP))
        if not groups:
            return []
        with pq.ParquetFile(self.file) as parquet:
            table = parquet.read_row_groups(list(groups))
        rows = table.slice(start - groups.start * ROW_GROUP, stop - start).to_pydict()
        return [Entry(os.fsdecode(name), os.fsdecode(location), *place) for name, location, *place in zip(*rows.values(), strict=True)]


def write_listing(source: str | Path, file: Path, *, stdin: BinaryIO | None = None) -> Listing:
    """List the images of `source` into a Parquet file, which is there whole or not at all.

    `source` is an image; a folder (with all below it, sorted by the parts of the path, hidden names skipped, links followed, shards
    opened); a text file of paths, separated by newlines or NULs; a .tar shard; shards as in `img-{000..012}.tar`; or `-` for
    paths on `stdin`. Files that cannot be read are listed: they fail when they are read.

    Raises:
        SourceError: nothing there, no image in it, a folder that cannot be read, a broken shard; StoreError: `file` cannot be written.
    """
    source = str(source)
    kind = kind_of(source)
    rows = rows_of(kind, source, stdin)
    digest, count = hashlib.sha256(), 0
    temporary = file.with_name(f".{file.name}.partial")
    try:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            while group := list(islice(rows, ROW_GROUP)):
                for name, location, offset, size in group:
                    led = location if kind in ("stdin", "list") else b""
                    digest.update(b"%d %d %d %d " % (len(name), len(led), offset, size) + name + led)
                columns = [pa.array(column, field.type) for column, field in zip(zip(*group, strict=True), SCHEMA, strict=True)]
                writer.write_table(pa.table(columns, schema=SCHEMA), ROW_GROUP)
                count += len(group)
            if not count:
                raise SourceError(f"No image found in {named(source)}.")
            writer.add_key_value_metadata({KEY: json.dumps({"source": source, "digest": digest.hexdigest()})})
        temporary.replace(file)
    except OSError as error:
        raise StoreError(f"Cannot write {file}: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return Listing(file, count, digest.hexdigest(), source)


def open_listing(file: Path) -> Listing:
    """The listing that `write_listing` wrote. Raises `StoreError` where there is none."""
    try:
        metadata = pq.read_metadata(file)
        facts = json.loads(metadata.metadata[KEY.encode()])
        return Listing(file, metadata.num_rows, facts["digest"], facts["source"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise StoreError(f"{file} is not a listing of images that this version wrote; remove it to list the source again.") from error
