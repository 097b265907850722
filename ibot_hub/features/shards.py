"""One shard of features in each of its three formats: written to a path, read back by column and rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from ibot_hub.errors import StoreError
from ibot_hub.options import Format

FloatArray = NDArray[np.float32]
Shapes = Mapping[str, Sequence[int] | None]  # column -> shape of one row; None where it differs from image to image

KEY = "ibot_hub"  # where Parquet and safetensors files keep what is no column; one key: safetensors writes several in random order
INTEGERS = ("width", "height", "patch_rows", "patch_columns")
ROW_GROUP_BYTES = 64 << 20  # of features: what reading one image's patches costs at most


@dataclass(frozen=True)
class Failure:
    """One image that could not be read: its row in the source, its path, and why."""

    row: int
    path: str
    reason: str


@dataclass(frozen=True)
class Rows:
    """The rows of one shard, in order, and the images of its share of the source that could not be read."""

    paths: Sequence[str]  # N
    widths: Sequence[int] | NDArray[Any]  # N, pixels
    heights: Sequence[int] | NDArray[Any]  # N, pixels
    arrays: Mapping[str, FloatArray | Sequence[FloatArray]]  # column -> [N, ...], or N arrays [H, W, D] where their shapes differ
    failures: tuple[Failure, ...] = ()


class Shard(Protocol):
    """A shard at a path, whatever its format; every read touches only the columns and, as far as the format can, the rows asked for."""

    @property
    def path(self) -> Path: ...

    def write(self, rows: Rows, shapes: Shapes) -> None: ...

    def summary(self) -> tuple[int, tuple[Failure, ...]]:
        """How many rows the shard has, and its failures."""

    def paths(self) -> list[str]: ...

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop of width, height or a column of one shape; the array may be read-only."""

    def read_maps(self, start: int, stop: int) -> list[FloatArray]:
        """Patches of rows start to stop, each [H, W, D], where they differ in shape."""


def shard_at(path: Path, format: Format) -> Shard:
    """The shard at a path, whether it is there yet or not."""
    match format:
        case "parquet":
            return ParquetShard(path)
        case "safetensors":
            return SafetensorsShard(path)
        case "npy":
            return NpyShard(path)


@contextmanager
def reading(shard: Shard) -> Iterator[None]:
    """Turn what the libraries raise over a damaged file into one sentence."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{shard.path} is damaged ({reason}); remove it and run the same command again to make it anew.") from error


@dataclass(frozen=True)
class ParquetShard:
    path: Path

    def write(self, rows: Rows, shapes: Shapes) -> None:
        table = _table(rows, shapes)
        features = [f"{name}.list.element" for name in shapes]
        step = max(1, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes))
        with pq.ParquetWriter(
            self.path,
            table.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            use_byte_stream_split=features,  # halves features that were computed in 16 bits
            write_statistics=["path"],
        ) as writer:
            if table.num_rows:  # an empty row group is what Hugging Face datasets stops at
                writer.write_table(table, row_group_size=step)

    def summary(self) -> tuple[int, tuple[Failure, ...]]:
        metadata = pq.read_metadata(self.path)
        return metadata.num_rows, _failures(json.loads(metadata.metadata[KEY.encode()])["failures"])

    def paths(self) -> list[str]:
        with pq.ParquetFile(self.path) as file:
            return list(file.read(columns=["path"])["path"].to_pylist())

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        with pq.ParquetFile(self.path) as file:
            shape = json.loads(file.metadata.metadata[KEY.encode()])["shapes"].get(column, [])
            return _values(_column(file, column, start, stop)).reshape(stop - start, *shape)

    def read_maps(self, start: int, stop: int) -> list[FloatArray]:
        with pq.ParquetFile(self.path) as file:
            names = ("patches", "patch_rows", "patch_columns")
            return _maps(*(_values(_column(file, name, start, stop)) for name in names))


def _table(rows: Rows, shapes: Shapes) -> pa.Table:
    # Nothing is ever null, and saying so makes lists several times faster to read.
    element = pa.field("element", pa.float32(), nullable=False)
    columns: dict[str, pa.Array] = {"path": pa.array(rows.paths, pa.string())}
    columns |= {name: pa.array(values) for name, values in _integers(rows, shapes).items()}
    for name, values in _floats(rows, shapes).items():
        shape = shapes[name]
        flat = pa.array(values.reshape(-1))
        if shape is not None:
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(element, int(np.prod(shape))))
        else:
            ends = np.cumsum([0, *(patches.size for patches in rows.arrays[name])])
            columns[name] = pa.LargeListArray.from_arrays(pa.array(ends), flat, type=pa.large_list(element))
    record = {"shapes": {name: shape and list(shape) for name, shape in shapes.items()}, "failures": _records(rows.failures)}
    fields = [pa.field(name, values.type, nullable=False) for name, values in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata={KEY: json.dumps(record)}))


def _column(file: pq.ParquetFile, column: str, start: int, stop: int) -> pa.ChunkedArray:
    """Rows start to stop of one column, from the row groups that hold them."""
    counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = np.cumsum(counts, dtype=np.int64)
    groups = np.flatnonzero((ends > start) & (ends - counts < stop)).tolist()
    first = int(ends[groups[0]]) - counts[groups[0]] if groups else 0
    return file.read_row_groups(groups, columns=[column])[column].slice(start - first, stop - start)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    if not pa.types.is_integer(column.type):
        chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]  # zero-copy
        return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, np.float32), *chunks])
    return np.asarray(column.to_numpy())


@dataclass(frozen=True)
class SafetensorsShard:
    path: Path

    def write(self, rows: Rows, shapes: Shapes) -> None:
        record = json.dumps({"paths": list(rows.paths), "failures": _records(rows.failures)})
        # save_file would go through a temporary of a random name, readable by its owner only.
        self.path.write_bytes(safetensors_bytes(_integers(rows, shapes) | _floats(rows, shapes), metadata={KEY: record}))

    def summary(self) -> tuple[int, tuple[Failure, ...]]:
        with safe_open(self.path, framework="numpy") as file:
            return file.get_slice("width").get_shape()[0], _failures(json.loads(file.metadata()[KEY])["failures"])

    def paths(self) -> list[str]:
        with safe_open(self.path, framework="numpy") as file:
            return list(json.loads(file.metadata()[KEY])["paths"])

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        with safe_open(self.path, framework="numpy") as file:
            if start == stop:  # a shard without rows, which get_slice refuses
                return np.asarray(file.get_tensor(column)[:0])
            return np.asarray(file.get_slice(column)[start:stop])

    def read_maps(self, start: int, stop: int) -> list[FloatArray]:
        return _maps_of_cells(self, start, stop)


@dataclass(frozen=True)
class NpyShard:
    path: Path  # a folder

    def write(self, rows: Rows, shapes: Shapes) -> None:
        self.path.mkdir()
        integers = _integers(rows, shapes)
        for name, values in _floats(rows, shapes).items():
            np.save(self.path / f"{name}.npy", values)
        columns = {"path": list(rows.paths)} | {name: values.tolist() for name, values in integers.items()}
        write_lines(self.path / "rows.jsonl", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
        write_lines(self.path / "failed.jsonl", _records(rows.failures))

    def _rows(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "rows.jsonl")

    def summary(self) -> tuple[int, tuple[Failure, ...]]:
        return len(self._rows()), _failures(read_lines(self.path / "failed.jsonl"))

    def paths(self) -> list[str]:
        return [row["path"] for row in self._rows()]

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        if column in INTEGERS:
            return np.array([row[column] for row in self._rows()[start:stop]], np.int32)
        return np.asarray(np.load(self.path / f"{column}.npy", mmap_mode="r")[start:stop])

    def read_maps(self, start: int, stop: int) -> list[FloatArray]:
        return _maps_of_cells(self, start, stop)


def _integers(rows: Rows, shapes: Shapes) -> dict[str, NDArray[np.int32]]:
    """Columns of one whole number a row: the size of the image and, where it varies, of its grid of patches."""
    columns = {"width": rows.widths, "height": rows.heights}
    if None in shapes.values():
        columns["patch_rows"] = [patches.shape[0] for patches in rows.arrays["patches"]]
        columns["patch_columns"] = [patches.shape[1] for patches in rows.arrays["patches"]]
    return {name: np.asarray(values, np.int32) for name, values in columns.items()}


def _floats(rows: Rows, shapes: Shapes) -> dict[str, FloatArray]:
    """Features as [N, ...]; patches whose grid varies as [all patches of all images, D]."""
    columns = {}
    for name, shape in shapes.items():
        if shape is None:
            cells = [patches.reshape(-1, patches.shape[-1]) for patches in rows.arrays[name]]
            joined = np.concatenate(cells) if cells else np.empty((0, 0), np.float32)
        else:
            joined = np.asarray(rows.arrays[name]).reshape(len(rows.paths), *shape)
        columns[name] = np.ascontiguousarray(joined, np.float32)
    return columns


def _maps_of_cells(shard: Shard, start: int, stop: int) -> list[FloatArray]:
    rows, columns = shard.read("patch_rows", 0, stop), shard.read("patch_columns", 0, stop)
    ends = np.cumsum([0, *(rows * columns)])
    return _maps(shard.read("patches", int(ends[start]), int(ends[stop])), rows[start:], columns[start:])


def _maps(values: FloatArray, rows: NDArray[Any], columns: NDArray[Any]) -> list[FloatArray]:
    """Cut what was joined: values of all images -> one [H, W, D] an image."""
    cells = rows * columns
    depth = values.size // max(1, int(cells.sum()))
    pieces = np.split(values.reshape(-1, depth), np.cumsum(cells)[:-1]) if len(cells) else []
    return [piece.reshape(height, width, depth) for piece, height, width in zip(pieces, rows, columns, strict=True)]


def _records(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    return [asdict(failure) for failure in failures]


def _failures(records: Sequence[dict[str, Any]]) -> tuple[Failure, ...]:
    return tuple(Failure(**record) for record in records)


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """JSON lines in plain ASCII, whatever the paths hold."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="ascii")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
