"""Listed images -> prepared batches in order, decoded ahead on threads."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from ibot_hub.errors import ImageError
from ibot_hub.images import ImageTransform, decode
from ibot_hub.listing import Entry


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image of the source: its pixels, or why it has none."""

    row: int  # in the source
    path: str  # valid UTF-8
    width: int = 0  # pixels of the image as it is shown
    height: int = 0
    pixels: Tensor | None = None  # uint8 [3, H, W]
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive images of one shard."""

    shard: int
    images: Sequence[Prepared]
    waited: float  # seconds until they were ready


def prepare(row: int, entry: Entry, transform: ImageTransform) -> Prepared:
    """Read, decode and fit one image; what is wrong with it is part of the answer."""
    try:
        image = decode(entry.read())
        return Prepared(row, entry.shown, image.width, image.height, transform.pixels(image))
    except ImageError as error:
        return Prepared(row, entry.shown, failure=str(error))


def batches(
    work: Iterator[tuple[int, int, Sequence[Entry]]], transform: ImageTransform, workers: int, ahead: int, *, overlap: bool
) -> Iterator[Batch]:
    """Each item of `work` (shard, first row, entries) as a batch, in order.

    `workers` threads decode (Pillow and torch let go of the interpreter's lock), at most `ahead` batches before they are
    asked for, so that memory does not grow with the source. With `overlap` they go on while the caller is busy with a batch:
    right for a GPU. Without, they decode `ahead` batches, then rest until these are used up: right for a network on the same
    cores, which loses more to threads that come and go than overlapping could win.
    """
    executor = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    queue: deque[tuple[int, list[Future[Prepared]]]] = deque()

    def submit(count: int) -> None:
        for shard, first, entries in islice(work, count):
            queue.append((shard, [executor.submit(prepare, row, entry, transform) for row, entry in enumerate(entries, first)]))

    try:
        while True:
            started = time.perf_counter()
            if not queue:
                submit(ahead)
                if not overlap:
                    wait([future for _, futures in queue for future in futures])
            if not queue:
                return
            shard, futures = queue.popleft()
            images = [future.result() for future in futures]
            waited = time.perf_counter() - started
            if overlap:
                submit(1)
            yield Batch(shard, images, waited)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
