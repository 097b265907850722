"""The folder an extraction writes: shards whole or not at all, one manifest, one record of the images that failed."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

from ibot_hub.errors import StoreError
from ibot_hub.features.shards import Failure, Rows, Shapes, Shard, reading, shard_at, write_lines
from ibot_hub.options import Format

MANIFEST = "manifest.json"
FAILED = "failed.jsonl"
LOCK = ".lock"
SUFFIX: Mapping[Format, str] = {"parquet": ".parquet", "safetensors": ".safetensors", "npy": ""}  # npy: a folder
SHARD = re.compile(r"shard-(\d{5,})(\.parquet|\.safetensors)?")
# What may be there before the manifest is: a shard without a manifest could be anyone's.
EARLY = re.compile(r"listing\.parquet|\.(manifest|listing|failed|shard-).*\.partial|\.([\w.-]+\.)?lock")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the features of a folder are, and how they were made; all but `versions` must be equal for a run to go on."""

    model: str
    arch: str
    network: str | None
    weights: str  # sha256 of the tensors, hex
    source: str
    images: int  # how many the listing holds, readable or not
    listing: str  # digest of the listing
    preprocessing: Mapping[str, Any]  # size, resize, mean, std, patch
    tokens: str
    layers: int
    pool: str
    dtype: str
    batch_size: int
    format: Format
    shard_size: int
    device: str  # cpu, cuda or mps: what each computes differs in the last digits
    columns: Shapes  # column -> shape of one row; None where it differs from image to image
    versions: Mapping[str, str]  # of the run that began it

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_size)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises ValueError where the text is no JSON, or has other keys than these."""
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise ValueError("its keys are not those of this version of ibot-hub")
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """All that must be equal, flat, as JSON has it: {"layers": 4, "size": 224, ...}."""
        values: dict[str, Any] = json.loads(self.to_json())
        del values["versions"], values["model"]  # the weights are compared, not how they were named
        columns = {f"shape of {name}": shape for name, shape in values.pop("columns").items()}
        return {**values.pop("preprocessing"), **values, **columns}


def prepare(folder: Path) -> None:
    """Make the folder if need be, and make sure that an extraction may write there; call it before anything is written.

    Raises StoreError if the folder cannot be made or written, or holds something else than features.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror}); choose another --out.") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StoreError(f"{folder} is not writable; choose another --out, or change its permissions.")
    if not (folder / MANIFEST).exists():
        foreign = next((entry.name for entry in sorted(folder.iterdir()) if not EARLY.fullmatch(entry.name)), None)
        if foreign:
            raise StoreError(f"{folder} is not a folder of features: it holds {foreign} but no {MANIFEST}; choose another --out.")


def save_manifest(folder: Path, manifest: Manifest, anew: bool = False) -> None:
    """Write the manifest, or unless `anew` make sure that the one already there describes the same features (its versions stay).

    Several processes may do so at once: one writes, the others compare. Raises StoreError that names every difference.
    """
    prepare(folder)
    with _locked(folder):
        if anew or not (folder / MANIFEST).exists():
            with _replacing(folder / MANIFEST) as temporary:
                temporary.write_text(manifest.to_json(), encoding="ascii")
            return
    old, new = read_manifest(folder).identity(), manifest.identity()
    names = [name for name in old | new if old.get(name) != new.get(name)]
    if names:
        differences = " and ".join(f"with {name}={_short(old.get(name))}, now {name}={_short(new.get(name))}" for name in names)
        raise StoreError(f"{folder} was made {differences}; use another --out, or --overwrite to start again.")


def read_manifest(folder: Path) -> Manifest:
    """Raises StoreError if there is none, or it cannot be understood."""
    try:
        return Manifest.from_json((folder / MANIFEST).read_text(encoding="ascii"))
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{folder} is not a folder of features: it holds no {MANIFEST}; `ibot extract-features SOURCE -o {folder}` makes one."
        raise StoreError(message) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / MANIFEST} cannot be read ({error}); put it back, or extract again to another folder.") from error


def clear(folder: Path, but: str = "") -> None:
    """Remove shards, failures and temporaries; the folder, its manifest and locks, the file called `but` and what is not ours stay.

    Raises StoreError if it is no folder of features.
    """
    prepare(folder)
    # a lock that is held must not be lost
    names = {entry.name for entry in folder.iterdir() if not entry.name.endswith("lock") and entry.name != but}
    ours = [folder / name for name in sorted(names) if SHARD.fullmatch(name) or EARLY.fullmatch(name) or name == FAILED]
    try:
        for path in ours:
            _remove(path)
    except OSError as error:
        raise StoreError(f"{folder} cannot be cleared ({error}); remove it by hand, or choose another --out.") from error


def shard_path(folder: Path, index: int, format: Format) -> Path:
    """Where shard `index` is or will be: rows index * shard_size and on of the source."""
    return folder / f"shard-{index:05d}{SUFFIX[format]}"


def is_written(folder: Path, index: int, format: Format) -> bool:
    """Whether shard `index` is there; if it is, it is whole."""
    return shard_path(folder, index, format).exists()


def write_shard(folder: Path, index: int, format: Format, rows: Rows, shapes: Shapes) -> None:
    """Write shard `index` whole, or not at all; the same rows give the same bytes.

    `shapes` has the shape of one row of each column (`Manifest.columns`). Raises StoreError if the disk is full or not writable.
    """
    with _replacing(shard_path(folder, index, format)) as temporary:
        shard_at(temporary, format).write(rows, shapes)


def read_failures(folder: Path) -> tuple[Failure, ...]:
    """The failures that the finished shards record, in order of rows."""
    failures: list[Failure] = []
    for shard in _shards(folder):
        with reading(shard):
            failures += shard.summary()[1]
    return tuple(sorted(failures, key=lambda failure: failure.row))


def write_failed(folder: Path) -> None:
    """Write failed.jsonl anew from the finished shards; without a failure there is no such file.

    Several parts may do so, each after its last shard: whoever comes last has seen them all.
    """
    with _locked(folder):
        failures = read_failures(folder)
        if failures:
            with _replacing(folder / FAILED) as temporary:
                write_lines(temporary, [asdict(failure) for failure in failures])
        else:
            (folder / FAILED).unlink(missing_ok=True)


def _shards(folder: Path) -> list[Shard]:
    """The shards that are there, whichever part wrote them."""
    format = read_manifest(folder).format
    indices = sorted(int(match[1]) for entry in folder.iterdir() if (match := SHARD.fullmatch(entry.name)))
    return [shard_at(shard_path(folder, index, format), format) for index in indices]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; a killed one holds no lock."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire()
    except OSError as error:
        raise StoreError(
            f"{folder / LOCK} cannot be locked ({error.strerror or error}); make the folder writable, or choose another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary path that becomes the target, a file or a folder, once it is whole and on the disk, and else is removed.

    Its name is fixed: what a killed run leaves, the next one writes over.
    """
    temporary = target.with_name(f".{target.name}.partial")
    try:
        try:
            _remove(temporary)
            yield temporary
            for path in [temporary] if temporary.is_file() else temporary.iterdir():
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            _remove(temporary)
    except OSError as error:
        whole = sum(bool(SHARD.fullmatch(entry.name)) for entry in target.parent.iterdir())
        raise StoreError(
            f"{target} cannot be written ({error.strerror or error}); whole shards so far: {whole}; "
            "free space, or make the folder writable, and run the same command again to go on."
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _short(value: Any) -> str:
    """Digests by their beginning, everything else as it is."""
    return f"{value[:12]}..." if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else str(value)
