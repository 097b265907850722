"""What an extraction wrote, as one table that is read lazily."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ibot_hub.errors import StoreError
from ibot_hub.features.shards import Failure, FloatArray, Shard, reading, shard_at
from ibot_hub.features.store import Manifest, read_manifest, shard_path


@dataclass(frozen=True, eq=False)
class Column:
    """One column of features, float32; rows are read when they are asked for, from the shards that hold them.

    An integer gives one row, a slice, index array or mask several: [n, ...], or a list of n arrays [H, W, D] where `row_shape`
    is None (patches of images that kept their aspect). `np.asarray(column)` reads all of it. What is read is a copy of one's own.
    """

    name: str
    row_shape: tuple[int, ...] | None
    shards: tuple[Shard, ...]
    ends: NDArray[np.int64]  # the row after the last of each shard

    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]; only [N] where the rows differ in shape."""
        return (len(self), *(self.row_shape or ()))

    def __len__(self) -> int:
        return int(self.ends[-1])

    @overload
    def __getitem__(self, rows: int) -> FloatArray: ...
    @overload
    def __getitem__(self, rows: Any) -> Any: ...
    def __getitem__(self, rows: Any) -> Any:
        chosen = _chosen(rows, len(self))
        flat = chosen.reshape(-1)
        taken = np.empty((flat.size, *(self.row_shape or ())), object if self.row_shape is None else self.dtype)
        shard_of = np.searchsorted(self.ends, flat, side="right")
        for shard in np.unique(shard_of).tolist():
            places = np.flatnonzero(shard_of == shard)
            local = flat[places] - self._start(shard)
            first = int(local.min())
            taken[places] = self._read(shard, first, int(local.max()) + 1)[local - first]
        if self.row_shape is None:
            return taken.tolist() if chosen.ndim else taken[0]
        return taken.reshape(*chosen.shape, *self.row_shape)

    def blocks(self) -> Iterator[Any]:
        """The rows of one shard after another: [n, ...] or a list; no more than one shard is held."""
        for shard in range(len(self.shards)):
            block = self._read(shard, 0, int(self.ends[shard]) - self._start(shard))
            yield block.tolist() if self.row_shape is None else np.require(block, requirements="W")

    def __iter__(self) -> Iterator[FloatArray]:
        for block in self.blocks():
            yield from block

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if self.row_shape is None:
            raise StoreError(f"{self.name} differ in shape from image to image, so they make no one array; [i] and [i:j] give them.")
        if copy is False:
            raise ValueError(f"{self.name} are on disk: an array of them is a copy.")
        return np.asarray(self[:], dtype)

    def _start(self, shard: int) -> int:
        return int(self.ends[shard - 1]) if shard else 0

    def _read(self, shard: int, start: int, stop: int) -> NDArray[Any]:
        """Rows of one shard as its file gives them; where they differ in shape, an array of objects."""
        with reading(self.shards[shard]):
            if self.row_shape is not None:
                return self.shards[shard].read(self.name, start, stop)
            block = np.empty(stop - start, object)
            for place, patches in enumerate(self.shards[shard].read_maps(start, stop)):
                block[place] = np.array(patches)
            return block


def _chosen(rows: Any, count: int) -> NDArray[np.int64]:
    """The rows that an index means, by NumPy's rules: a number, or an array of them."""
    if isinstance(rows, int | np.integer | slice):
        return np.array(range(count)[rows], np.int64)
    return np.asarray(np.arange(count)[rows])


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """A folder of features as one table of N rows in the order of the source; images that could not be read are in `failures`."""

    folder: Path
    manifest: Manifest
    failures: tuple[Failure, ...]
    shards: tuple[Shard, ...]
    ends: NDArray[np.int64]  # the row after the last of each shard

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {list(shape) if shape else 'of any shape'}" for name, shape in self.manifest.columns.items())
        return f"Features({self.folder}: {len(self)} images by {self.manifest.model}: {columns}; {len(self.failures)} failed)"

    @cached_property
    def paths(self) -> list[str]:
        """N paths, as the source names them."""
        paths: list[str] = []
        for shard in self.shards:
            with reading(shard):
                paths += shard.paths()
        return paths

    @property
    def widths(self) -> NDArray[np.int32]:
        """N widths of the images as they are shown, EXIF rotation applied, in pixels."""
        return self._integers("width")

    @property
    def heights(self) -> NDArray[np.int32]:
        """N heights of the images as they are shown, in pixels."""
        return self._integers("height")

    @property
    def feature(self) -> Column:
        """One vector an image: [N, F]. Raises StoreError if it was not extracted."""
        return self._column("feature")

    @property
    def patches(self) -> Column:
        """Patch tokens by row and column: [N, H, W, D]. Raises StoreError if they were not extracted."""
        return self._column("patches")

    def _column(self, name: str) -> Column:
        columns = self.manifest.columns
        if name not in columns:
            there = " and ".join(columns)
            raise StoreError(f"{self.folder} holds no {name}, only {there}; extract to another folder with --tokens both.")
        shape = columns[name]
        return Column(name, None if shape is None else tuple(shape), self.shards, self.ends)

    def _integers(self, name: str) -> NDArray[np.int32]:
        values = []
        for shard, count in zip(self.shards, np.diff(self.ends, prepend=0).tolist(), strict=True):
            with reading(shard):
                values.append(shard.read(name, 0, count))
        return np.concatenate(values)


def open_features(folder: str | Path) -> Features:
    """Open what `extract` wrote, in any of its formats; only the summary of each shard is read.

    Raises StoreError if the folder holds no features, if a shard is missing (the run was cut short) or if one is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    shards = [shard_at(shard_path(folder, index, manifest.format), manifest.format) for index in range(manifest.shards)]
    missing = [shard.path.name for shard in shards if not shard.path.exists()]
    if missing:
        which = f"{missing[0]} is missing" if len(missing) == 1 else f"{missing[0]} and {len(missing) - 1} more are missing"
        raise StoreError(f"{which} of the {len(shards)} shards in {folder}: run the same command again, which goes on where it stopped.")
    counts: list[int] = []
    failures: list[Failure] = []
    for index, shard in enumerate(shards):
        with reading(shard):
            count, failed = shard.summary()
            share = min(manifest.shard_size, manifest.images - index * manifest.shard_size)
            if count + len(failed) != share:
                raise ValueError(f"{count} rows and {len(failed)} failures, of {share} images")
        counts.append(count)
        failures += failed
    return Features(folder, manifest, tuple(failures), tuple(shards), np.cumsum(counts))
