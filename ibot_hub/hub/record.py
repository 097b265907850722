"""What is known of a file of the cache: where it comes from, and whether it is still as it came."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot_hub.errors import WeightsError


@dataclass(frozen=True)
class Record:
    """Where a file of the cache comes from and what it looked like on entry; it lies beside the file as JSON."""

    url: str  # or the path in a mirror that is a folder
    original_sha256: str  # of the file as it was published
    verified: bool  # the catalogue knows the digest; else it was recorded at first use
    sha256: str  # of the file in the cache
    size: int  # bytes
    modified: int  # ns since the epoch
    table_sha256: str  # of the tensor table: names, dtypes, shapes and offsets


def read_record(path: Path) -> Record | None:
    """What was recorded when `path` entered the cache; None for a file that is not of the cache.

    Raises:
        WeightsError: the record is damaged.
    """
    try:
        return Record(**json.loads(record_file(path).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{record_file(path)} is damaged; remove it, and {path.name} is fetched anew.") from error


def check_unchanged(path: Path, record: Record) -> None:
    """Raises WeightsError if size, time or tensor table are not those of the record."""
    status = path.stat()
    if status.st_size != record.size:
        change = f"it has {status.st_size:,} bytes, not {record.size:,}"
    elif status.st_mtime_ns != record.modified and sha256(path) != record.sha256:  # a copied cache has other times
        change = "it was written to"
    elif table_sha256(path) != record.table_sha256:
        change = "its tensor table is another"
    else:
        return
    raise WeightsError(f"{path} was changed since it came into the cache: {change}; remove it, and it is fetched anew.")


def table_sha256(path: Path) -> str:
    """The digest of a safetensors file's header: eight bytes that say how long the table is, then the table."""
    with path.open("rb") as file:
        start = file.read(8)
        length = min(int.from_bytes(start, "little"), path.stat().st_size)  # a damaged length may be any number
        return hashlib.sha256(start + file.read(length)).hexdigest()


def record_file(path: Path) -> Path:
    """Where the record of `path` lies."""
    return path.with_suffix(".json")


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
