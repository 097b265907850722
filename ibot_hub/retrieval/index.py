"""An index on disk: which images or patches are nearest to a vector, through faiss."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.features.shards import FloatArray
from ibot_hub.features.store import Manifest
from ibot_hub.listing import Entry
from ibot_hub.options import Of

MANIFEST, VECTORS, IMAGES = "index.json", "index.faiss", "images.arrow"
SCHEMA = pa.schema(
    [("path", pa.string()), ("location", pa.binary()), ("offset", pa.int64()), ("size", pa.int64())]
    + [(name, pa.int32()) for name in ("width", "height", "rows", "columns")]
)


@dataclass(frozen=True, kw_only=True)
class IndexManifest:
    """What an index holds, and what made it."""

    of: Of
    kind: str
    count: int  # vectors
    images: int
    width: int  # D
    features: Manifest  # of the extraction: model, weights, preprocessing
    versions: Mapping[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "IndexManifest":
        """Raises ValueError where the text is no JSON, or has other keys than these."""
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise ValueError("its keys are not those of this version of ibot-hub")
        return cls(**{**values, "features": Manifest.from_json(json.dumps(values["features"]))})


@dataclass(frozen=True)
class Indexed:
    """One image of an index."""

    path: str  # as the source of the extraction named it
    entry: Entry  # where it was
    width: int  # pixels
    height: int


@dataclass(frozen=True, eq=False)
class Index:
    """Vectors of length 1 on disk: one an image, or one a patch, image after image and row by row."""

    folder: Path
    manifest: IndexManifest
    table: pa.Table  # images, memory-mapped
    vectors: Any  # faiss's index, memory-mapped where it can

    def __len__(self) -> int:
        return self.manifest.count

    def nearest(self, queries: FloatArray, k: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Cosines and numbers of the k nearest vectors to each of [n, D], each [n, k], best first.

        A kind that is not exact may find fewer than k: what is left has the number -1.
        """
        scores, numbers = self.vectors.search(normalised(queries), min(k, len(self)))
        return scores, numbers

    def place(self, number: int) -> tuple[int, tuple[int, int] | None]:
        """The image and, in an index of patches, the patch (row, column) of a vector."""
        image = int(np.searchsorted(self._ends, number, side="right"))
        if self.manifest.of == "images":
            return image, None
        columns = self.table["columns"][image].as_py()
        return image, divmod(number - int(self._ends[image]) + self.table["rows"][image].as_py() * columns, columns)

    def image(self, number: int) -> Indexed:
        facts = {name: self.table[name][number].as_py() for name in SCHEMA.names}
        entry = Entry(facts["path"], os.fsdecode(facts["location"]), facts["offset"], facts["size"])
        return Indexed(facts["path"], entry, facts["width"], facts["height"])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """The vector after the last of each image."""
        return np.cumsum(self.table["rows"].to_numpy().astype(np.int64) * self.table["columns"].to_numpy())


def open_index(folder: str | Path) -> Index:
    """Open what `build_index` wrote; vectors are read from disk when they are looked at.

    Raises StoreError if the folder holds no index or a damaged one, UsageError if faiss is not installed.
    """
    folder = Path(folder)
    try:
        manifest = IndexManifest.from_json((folder / MANIFEST).read_text(encoding="ascii"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{folder} is not an index: it holds no {MANIFEST}; `ibot index FEATURES -o {folder}` makes one.") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / MANIFEST} cannot be read ({error}); build the index again.") from error
    faiss = import_faiss()
    try:
        table = pa.ipc.open_file(pa.memory_map(str(folder / IMAGES))).read_all()
        mapped = faiss.IO_FLAG_MMAP_IFC if sys.platform == "linux" else 0  # not everywhere can faiss map, or a mapped file be replaced
        vectors = faiss.read_index(str(folder / VECTORS), mapped)
        if (vectors.ntotal, vectors.d, table.num_rows) != (manifest.count, manifest.width, manifest.images):
            raise ValueError(f"{vectors.ntotal} vectors and {table.num_rows} images, not {manifest.count} and {manifest.images}")
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:  # RuntimeError is faiss's
        raise StoreError(f"{folder} is damaged ({' '.join(str(error).split())[-200:]}); build the index again.") from error
    return Index(folder, manifest, table, vectors)


def normalised(vectors: FloatArray) -> FloatArray:
    """[n, D] float32, each of length 1, or 0 where it was; a copy."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def import_faiss() -> ModuleType:
    """The library, with as many threads as torch has. Raises UsageError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UsageError("An index needs faiss: pip install 'ibot-hub[search]'.") from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
