"""Images -> features on disk: shards are written whole, a rerun goes on."""

import copy
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from ibot_hub.devices import choose_devices, own_cores, placed
from ibot_hub.errors import IBotError, StoreError, UsageError
from ibot_hub.features import store
from ibot_hub.features.columns import batch_features, shard_rows
from ibot_hub.features.parts import Part
from ibot_hub.features.pipeline import Prepared, batches
from ibot_hub.features.plan import check_options, plan_extraction, transform_of
from ibot_hub.features.store import Manifest
from ibot_hub.listing import Entry, Listing
from ibot_hub.model import Model
from ibot_hub.options import ExtractOptions
from ibot_hub.sources import kind_of

AHEAD = 4  # batches decoded before they are asked for
Advance = Callable[[int, float], None]  # images done, seconds waited for them


@dataclass(frozen=True)
class Extraction:
    """What an extraction did; the counts are of this part of it."""

    out: Path
    part: Part
    images: int
    failed: int  # images that could not be read; `out`/failed.jsonl names them
    resumed: int  # images of shards that an earlier run had written
    seconds: float
    waiting: float  # share of the time spent waiting for images, 0..1
    manifest: Manifest


def extract(
    model: Model,
    source: str | Path,
    out: str | Path,
    options: ExtractOptions | None = None,
    *,
    stdin: BinaryIO | None = None,
    **changes: Any,
) -> Extraction:
    """Write the features of every image of `source` into the folder `out`; the same call goes on after an interruption.

    On a machine with several GPUs each gets a process (so a script that calls this needs `if __name__ == "__main__":`).

    Args:
        model: what `ibot_hub.load` gives; a copy is moved to the device and precision of the options.
        source: an image, a folder, a text file of paths, .tar shards (`a-{00..12}.tar`), or "-" for paths on standard input.
        out: a folder of this extraction's own.
        options: what to keep and how; `changes` are fields of it by name: extract(model, "photos", "features", layers=4).
        stdin: what "-" reads; default standard input.

    Raises:
        SourceError: no images; StoreError: `out` holds something else, or cannot be written; UsageError: options that
        contradict each other.
    """
    options = replace(options or ExtractOptions(), **changes)
    started = time.perf_counter()
    folder = Path(out)
    part, devices = check_request(str(source), options)
    check_options(model, options)
    with _only_writer(folder, part):
        manifest, listing = plan_extraction(model, str(source), folder, options, devices[0], stdin)
        workers = options.workers or max(1, own_cores() // max(len(devices), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        return _run(Job(model, listing, manifest, folder, workers), part, devices, started)


def check_request(source: str, options: ExtractOptions) -> tuple[Part, list[torch.device]]:
    """The part and the devices of this process; what can be seen to be wrong without a model is told before anything is written.

    Raises:
        SourceError: the source leads nowhere; UsageError: a device that is not here, a part that is none.
    """
    part = Part.parse(options.part) if options.part else Part.from_environment()
    if options.overwrite and part.count > 1:
        raise UsageError("overwrite would remove what the other parts write; remove the folder first, then start the parts.")
    kind_of(source)
    return part, _own_devices(choose_devices(options.device))


@dataclass(frozen=True, eq=False)
class Job:
    """All that the parts of one extraction share."""

    model: Model
    listing: Listing
    manifest: Manifest
    folder: Path
    workers: int  # threads that decode, for each device


def _run(job: Job, part: Part, devices: Sequence[torch.device], started: float) -> Extraction:
    """`run_part` on the one device or `run_parts` on all, with a progress line on a terminal."""
    manifest, folder = job.manifest, job.folder
    sizes = {k: min(manifest.shard_size, manifest.images - k * manifest.shard_size) for k in part.shards(manifest.shards)}
    resumed = sum(size for k, size in sizes.items() if store.is_written(folder, k, manifest.format))
    waited = 0.0
    total, precision = sum(sizes.values()), f"extracting in {manifest.dtype}"
    with tqdm(total=total, initial=resumed, unit="img", desc=precision, file=sys.stderr, disable=None) as bar:

        def advance(count: int, seconds: float) -> None:
            nonlocal waited
            waited += seconds / len(devices)
            bar.set_postfix_str(f"waiting for images {waited / (time.perf_counter() - started):.0%}", refresh=False)
            bar.update(count)

        try:
            if len(devices) == 1:
                run_part(job, part, devices[0], advance)
            else:
                run_parts(job, [part.split(index, len(devices)) for index in range(len(devices))], devices, advance)
        except KeyboardInterrupt as interrupt:
            whole = sum(store.is_written(folder, k, manifest.format) for k in sizes)
            interrupt.add_note(f"{whole} of {len(sizes)} shards are whole in {folder}; the same command goes on from there.")
            raise
    store.write_failed(folder)
    failed = sum(failure.row // manifest.shard_size in sizes for failure in store.read_failures(folder))
    seconds = time.perf_counter() - started
    return Extraction(folder, part, sum(sizes.values()), failed, resumed, seconds, waited / seconds, manifest)


def run_part(job: Job, part: Part, device: torch.device, advance: Advance) -> None:
    """Write the shards of `part` that are not there yet, on one device."""
    manifest = job.manifest
    backbone = placed(job.model.backbone, device, getattr(torch, manifest.dtype))
    transform = transform_of(manifest)
    images: list[Prepared] = []
    features: list[dict[str, list[Tensor]]] = []
    for batch in batches(_work(job, part), transform, job.workers, AHEAD, overlap=device.type != "cpu"):
        features.append(batch_features(backbone, transform, batch, manifest))
        images += [replace(image, pixels=None) for image in batch.images]
        if images[-1].row + 1 in (manifest.images, (batch.shard + 1) * manifest.shard_size):
            store.write_shard(job.folder, batch.shard, manifest.format, shard_rows(images, features, manifest), manifest.columns)
            images, features = [], []
        advance(len(batch.images), batch.waited)


def run_parts(job: Job, parts: Sequence[Part], devices: Sequence[torch.device], advance: Advance) -> None:
    """`run_part` for each pair of part and device, in a process each; the first error ends them all."""
    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    # by value: shared memory is small in containers, and a model on a GPU would keep that GPU busy from every process
    packed = pickle.dumps(replace(job, model=copy.deepcopy(job.model).cpu()))
    processes = [
        context.Process(target=_report_part, args=(packed, part, device, messages), daemon=True)
        for part, device in zip(parts, devices, strict=True)
    ]
    try:
        for process in processes:
            process.start()
        running = len(processes)
        while running:
            if messages.empty():
                dead = [process for process in processes if process.exitcode]
                if dead:
                    raise RuntimeError(f"a worker process ended with exit code {dead[0].exitcode}")
                time.sleep(0.05)
                continue
            message = messages.get()
            if isinstance(message, IBotError):
                raise message
            if message is None:
                running -= 1
            else:
                advance(*message)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _report_part(packed: bytes, part: Part, device: torch.device, messages: Any) -> None:
    """`run_part` in a process of its own; puts (images, seconds) as they come, then None, or the error that ended it."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_part(pickle.loads(packed), part, device, lambda count, seconds: messages.put((count, seconds)))
        messages.put(None)
    except IBotError as error:
        messages.put(error)
    except KeyboardInterrupt:  # the parent has it too, and says how to go on
        sys.exit(130)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its processes; they must not write beside the run that follows."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(job: Job, part: Part) -> Iterator[tuple[int, int, Sequence[Entry]]]:
    """(shard, first row, entries) of every batch to do; a batch never crosses shards, so parts equal the whole byte for byte."""
    manifest = job.manifest
    for shard in part.shards(manifest.shards):
        if store.is_written(job.folder, shard, manifest.format):
            continue
        start = shard * manifest.shard_size
        entries = job.listing.entries(start, min(start + manifest.shard_size, manifest.images))
        for first in range(0, len(entries), manifest.batch_size):
            yield shard, start + first, entries[first : first + manifest.batch_size]


def _own_devices(devices: list[torch.device]) -> list[torch.device]:
    """Under torchrun, which starts one process a device, the one of this process; else all."""
    rank = os.environ.get("LOCAL_RANK")
    return devices if rank is None else [devices[int(rank) % len(devices)]]


@contextmanager
def _only_writer(folder: Path, part: Part) -> Iterator[None]:
    """Hold `folder` for this part; other parts of as many may work beside it, nobody else."""
    store.prepare(folder)
    with FileLock(folder / ".plan.lock"):
        for lock in sorted(folder.glob(".part-*-of-*.lock")):
            if not lock.name.endswith(f"-of-{part.count}.lock"):
                _claim(lock, folder).release()
        own = _claim(folder / f".part-{part.index}-of-{part.count}.lock", folder)
    try:
        yield
    finally:
        own.release()


def _claim(lock: Path, folder: Path) -> BaseFileLock:
    claim = FileLock(lock)
    try:
        claim.acquire(timeout=0)
    except Timeout as error:
        _, index, _, count = lock.stem.removeprefix(".").split("-")
        raise StoreError(f"Another process is writing part {index}/{count} of {folder}; wait for it, or stop it.") from error
    return claim
