"""Features on disk become an index of images or patches."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ibot_hub import __version__
from ibot_hub.errors import StoreError, UsageError
from ibot_hub.features.plan import LISTING
from ibot_hub.features.shards import FloatArray, reading
from ibot_hub.features.table import Column, Features, open_features
from ibot_hub.listing import open_listing
from ibot_hub.options import IndexOptions, Of
from ibot_hub.retrieval.index import IMAGES, MANIFEST, SCHEMA, VECTORS, Index, IndexManifest, import_faiss, normalised, open_index

KINDS = {"exact": "Flat", "hnsw": "HNSW32"}  # any other kind is faiss's own word for an index
TRAINING = 1 << 17  # vectors at most that a kind is trained on which must be: 400 MB of ViT-B's
EFFORT = 200  # candidates that hnsw looks at, when it is built and when it is asked
LISTS = 16  # of the lists of an inverted file, one in so many is looked through


def build_index(features: Features | str | Path, out: str | Path, options: IndexOptions | None = None, **changes: Any) -> Index:
    """Write an index of what `extract` wrote into the folder `out`: whole, or not at all; an index that is there is replaced.

    Exact by default: the cosine with every vector. Features are read shard by shard; the index itself is held while it is built.

    Args:
        features: the folder, or what `open_features` gives.
        out: a folder of this index's own.
        options: what it is of and which kind; `changes` are fields of it by name: build_index("features", "index", of="patches").

    Raises:
        UsageError: faiss is not installed, or does not know the kind; StoreError: what is asked for was not extracted, or `out`
        holds something else, or cannot be written.
    """
    options = replace(options or IndexOptions(), **changes)
    features = features if isinstance(features, Features) else open_features(features)
    faiss = import_faiss()
    _check_free(Path(out))
    column = _column(features, options.of)
    table = pa.Table.from_batches(_images(features, options.of), SCHEMA)
    count = int((table["rows"].to_numpy().astype(np.int64) * table["columns"].to_numpy()).sum())
    vectors = _empty(faiss, options.kind, column[0].shape[-1])
    _train(vectors, column, options.kind, count)
    for block in tqdm(_blocks(column), total=len(column.shards), unit="shard", desc="indexing", file=sys.stderr, disable=None):
        vectors.add(block)
    manifest = IndexManifest(
        of=options.of,
        kind=options.kind,
        count=count,
        images=len(features),
        width=vectors.d,
        features=features.manifest,
        versions={"ibot-hub": __version__, "faiss": faiss.__version__},
    )
    with _replacing(Path(out)) as folder:
        with pa.OSFile(str(folder / IMAGES), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_table(table)
        faiss.write_index(vectors, str(folder / VECTORS))
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="ascii")
    return open_index(out)


def _column(features: Features, of: Of) -> Column:
    """What is indexed. Raises StoreError where it was not extracted, or no image could be read."""
    manifest = features.manifest
    name = "feature" if of == "images" else "patches"
    if name not in manifest.columns:
        raise StoreError(
            f"{features.folder} holds no {name} to index {of} by; "
            f"`ibot extract-features {manifest.source} --model {manifest.model} --tokens both -o FEATURES` extracts both."
        )
    if not len(features):
        raise StoreError(f"{features.folder} holds features of no image: none of {manifest.images} could be read.")
    return features.feature if of == "images" else features.patches


def _empty(faiss: ModuleType, kind: str, width: int) -> Any:
    """An index without vectors, which measures inner products."""
    try:
        vectors = faiss.index_factory(width, KINDS.get(kind, kind), faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        known = ", ".join(KINDS)
        raise UsageError(f"faiss knows no kind of index {kind!r} for vectors of {width}; say {known}, or such as IVF1024,SQ8.") from error
    if isinstance(vectors, faiss.IndexHNSW):
        vectors.hnsw.efConstruction = vectors.hnsw.efSearch = EFFORT
    inverted = faiss.try_extract_index_ivf(vectors)
    if inverted is not None:
        inverted.nprobe = max(1, inverted.nlist // LISTS)
    return vectors


def _train(vectors: Any, column: Column, kind: str, count: int) -> None:
    """Some kinds of index learn from vectors first: from all of them, or from as many at equal steps as are held at once."""
    if vectors.is_trained:
        return
    step = -(-count // TRAINING)
    seen, sample = 0, []
    for block in _blocks(column):
        sample.append(block[-seen % step :: step])
        seen += len(block)
    try:
        vectors.train(np.concatenate(sample))
    except RuntimeError as error:
        raise UsageError(f"{count} vectors are too few to train an index of kind {kind}; take a smaller one, or exact.") from error


def _blocks(column: Column) -> Iterator[FloatArray]:
    """The vectors of one shard after another, [n, D], of length 1."""
    for block in column.blocks():
        if len(block):
            maps = block if isinstance(block, list) else [block]
            yield normalised(np.concatenate([values.reshape(-1, values.shape[-1]) for values in maps]))


def _images(features: Features, of: Of) -> Iterator[pa.RecordBatch]:
    """The images of one shard after another: name, place, size, and the grid of their vectors (1 x 1 in an index of images)."""
    listing = open_listing(features.folder / LISTING)
    if listing.digest != features.manifest.listing:
        raise StoreError(f"{listing.file} is not the list of images that {features.folder} was made from; extract again to another folder.")
    failed = {failure.row for failure in features.failures}
    size = features.manifest.shard_size
    grid = features.manifest.columns["patches"] if of == "patches" else (1, 1)
    for start, shard in zip(range(0, features.manifest.images, size), features.shards, strict=True):
        stop = min(start + size, features.manifest.images)
        entries = [entry for row, entry in enumerate(listing.entries(start, stop), start) if row not in failed]
        with reading(shard):
            numbers = {name: shard.read(name, 0, len(entries)) for name in ("width", "height")}
            for name, side, column in zip(("rows", "columns"), grid or (0, 0), ("patch_rows", "patch_columns"), strict=False):
                numbers[name] = np.full(len(entries), side, np.int32) if grid else shard.read(column, 0, len(entries))
            paths = shard.paths()
        places = {
            "location": [os.fsencode(entry.location) for entry in entries],
            "offset": [entry.offset for entry in entries],
            "size": [entry.size for entry in entries],
        }
        yield pa.RecordBatch.from_pydict({"path": paths, **places, **numbers}, schema=SCHEMA)


def _check_free(target: Path) -> None:
    """Raises StoreError if there is something that no index is: what is replaced is removed, with all that it holds."""
    ours = target.is_dir() and {entry.name for entry in target.iterdir()} in (set(), {MANIFEST, VECTORS, IMAGES})
    if target.exists() and not ours:
        raise StoreError(f"{target} holds something else than an index; choose another --out.")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes the target once it is whole, and else is removed."""
    target = target.absolute()
    temporary, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    try:
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.replace(old)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # RuntimeError is faiss's
        raise StoreError(
            f"{target} cannot be written ({' '.join(str(error).split())[-200:]}); free space, or choose another --out."
        ) from error
