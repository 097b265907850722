"""The images of a source by number, listed once a run."""

from array import array
from os import fsdecode
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from PIL import Image

from ibot_hub.errors import SourceError
from ibot_hub.images import decode
from ibot_hub.listing import Entry, open_listing, write_listing
from ibot_hub.sources import kind_of, shown
from ibot_training.huggingface import is_dataset, open_dataset

LISTING = "images.parquet"  # in the folder of a run

Numbers = npt.NDArray[np.int64]


class Images(Protocol):
    """Images numbered from 0."""

    @property
    def labels(self) -> Numbers | None:
        """The class of each image, [N]; None where there are no classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    def digest(self) -> str:
        """The same for the same images, wherever a folder or shards of them lie: by their names in order, not by their pixels."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What a message calls the image, as valid UTF-8."""

    def load(self, number: int) -> Image.Image:
        """The image as RGB. Raises `ImageError` with a reason that names no path. Threads may call it at the same time."""


class Files:
    """The images of a listing: files, or byte ranges of shards."""

    def __init__(self, listing: Path) -> None:
        self._rows = pq.read_table(listing)  # about 110 bytes an image
        self.labels, self.classes = _classes_of(self._rows)
        self.digest = open_listing(listing).digest

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return self._entry(number).shown

    def load(self, number: int) -> Image.Image:
        return decode(self._entry(number).read())

    def _entry(self, number: int) -> Entry:
        name, location, offset, size = (column[number].as_py() for column in self._rows.columns)
        return Entry(fsdecode(name), fsdecode(location), offset, size)


def open_images(source: str, folder: Path) -> Images:
    """The images of a source: what `ibot_hub.listing.write_listing` lists, or a data set of Hugging Face's `datasets`.

    The first call lists the source into `folder`/images.parquet; each later one, by another process or by the run when it goes on,
    takes that listing, so that many files are walked once. A data set is named `datasets:NAME[:SPLIT[:COLUMN]]`, NAME of the hub
    or a folder, or is a folder that its `save_to_disk` wrote.

    Raises:
        SourceError: nothing there, no image in it, or the run in `folder` has those of another source.
        StoreError: `folder` cannot be written, or its listing cannot be read.
    """
    if is_dataset(source):
        return open_dataset(source)
    file, absolute = folder / LISTING, str(Path(source).absolute())
    with FileLock(folder / f".{LISTING}.lock"):  # of several processes one lists, the others wait for it
        if not file.exists():
            kind_of(source)  # what is wrong with it is told in the words of the caller
            write_listing(absolute, file)
    listing = open_listing(file)
    if listing.source != absolute:
        raise SourceError(
            f"The run in {shown(str(folder))} has the images of {shown(listing.source)}, not of {shown(source)}; "
            f"go on with those, or start another run."
        )
    return Files(file)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """The whole batches in `count` images; an epoch leaves the rest out. Raises `SourceError` if there is none."""
    if count < batch_size:
        raise SourceError(f"There are {count} images, too few for a batch of {batch_size}: set optimiser.batch_size to {count} or less.")
    return count // batch_size


def epoch_order(seed: int, epoch: int, count: int) -> Numbers:
    """The images in the order in which an epoch takes them: each number below `count` once."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def _classes_of(rows: pa.Table) -> tuple[Numbers | None, tuple[str, ...]]:
    """Folders are classes where every image lies in one and there are several; of a shard, the folders in it."""
    found: dict[bytes, int] = {}
    labels = array("q")
    for batch in rows.to_batches():
        for name, location, offset in zip(*(batch[key].to_pylist() for key in ("name", "location", "offset")), strict=True):
            inner = name.partition(location.rpartition(b"/")[2] + b"/")[2] if offset >= 0 else name
            folder, inside, _ = inner.partition(b"/")
            if not inside:
                return None, ()
            labels.append(found.setdefault(folder, len(found)))
    if len(found) < 2:
        return None, ()
    classes = sorted(found)
    places = np.argsort([found[name] for name in classes])  # of the classes in order of their first image, among the sorted
    return places[np.frombuffer(labels, dtype=np.int64)], tuple(map(shown, classes))
