"""What one sees of a run: its progress, its numbers, and the images it could not read."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from ibot_hub.errors import StoreError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, SKIPPED, PICTURES, EVENTS = "metrics.jsonl", "skipped.jsonl", "pictures", "tensorboard"  # in the folder of a run
PLAIN_EVERY = 30.0  # seconds from one line to the next where standard error is no terminal


class Skipped:
    """The images that a run could not read, each of them once in skipped.jsonl; several processes and threads may write there."""

    def __init__(self, run: Path) -> None:
        """`run` is a folder that exists; what an earlier start of the run skipped counts too."""
        self._path = run / SKIPPED
        self._lock = FileLock(run / f".{SKIPPED}.lock")  # holds off threads too
        self._names: set[str] = set()
        self._read = 0  # bytes of the file that `_names` knows

    def __len__(self) -> int:
        """How many images were skipped, by any process. Raises StoreError if the file cannot be read."""
        with _reporting(self._path), self._lock:
            return len(self._known())

    def add(self, name: str, reason: str) -> None:
        """Name an image, unless that was done. Raises StoreError if it cannot be written."""
        if name in self._names:
            return
        with _reporting(self._path), self._lock:
            if name not in self._known():
                with self._path.open("ab") as file:
                    file.truncate(self._read)  # a killed process may have left half a line
                    file.write(_line({"name": name, "reason": reason}))

    def _known(self) -> set[str]:
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):
                    self._names.add(json.loads(line)["name"])
                    self._read += len(line)
        return self._names


class Monitor:
    """The progress line on standard error, metrics.jsonl, TensorBoard and pictures; a context manager around the loop.

    It takes plain numbers, so it never waits for a device. A step is the number of optimiser steps done; the first is 1.
    """

    def __init__(self, run: Path, skipped: Skipped, *, batch_size: int, steps_per_epoch: int, total_steps: int, start_step: int) -> None:
        """What an earlier start of the run recorded beyond `start_step`, where it now goes on, is removed.

        Raises StoreError if the folder `run` cannot be written, or its metrics.jsonl cannot be read.
        """
        self._run, self._skipped = run, skipped
        self._batch_size, self._steps_per_epoch, self._total_steps = batch_size, steps_per_epoch, total_steps
        with _reporting(run / METRICS):
            _cut(run / METRICS, start_step)
        self._events = _open_events(run / EVENTS, start_step)
        self._bar = tqdm(
            total=total_steps * batch_size, initial=start_step * batch_size, unit="img", unit_scale=True, file=sys.stderr, disable=None
        )
        self._start = self._mark = (time.perf_counter(), start_step)
        self._waited = 0.0  # seconds since the mark
        self._said = -math.inf  # when the last plain line was written

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.close()
        if self._events:
            with _reporting(self._run / EVENTS):
                self._events.close()

    def advance(self, waited: float) -> None:
        """One more step is done, for which the loop waited so many seconds for images."""
        self._waited += waited
        self._bar.update(self._batch_size)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, "loss" among them, with the rate and the share of waiting since the last ones.

        Raises StoreError if they cannot be written.
        """
        (then, before), now = self._mark, time.perf_counter()
        seconds = now - then
        rate, waiting, skipped = (step - before) * self._batch_size / seconds, self._waited / seconds, len(self._skipped)
        self._write(step, {**values, "images_per_second": rate, "waiting": waiting, "skipped": skipped})
        self._mark, self._waited = (now, step), 0.0
        loss, waits = f"loss {values['loss']:.4f}", f"waiting for images {waiting:.0%}"
        skips = f", skipped images: {skipped}" if skipped else ""
        epochs = math.ceil(self._total_steps / self._steps_per_epoch)
        self._bar.set_description(f"epoch {math.ceil(step / self._steps_per_epoch)}/{epochs}", refresh=False)
        self._bar.set_postfix_str(f"{loss}, {waits}{skips}", refresh=False)
        if self._bar.disable and (now - self._said >= PLAIN_EVERY or step == self._total_steps):
            self._said = now
            began, first = self._start
            left = tqdm.format_interval((now - began) / (step - first) * (self._total_steps - step))
            print(f"step {step}/{self._total_steps}: {loss}, {rate:.1f} img/s, {left} left, {waits}{skips}", file=sys.stderr, flush=True)

    def summarise(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of an epoch, which ends with that step, and say them; the time it took to find them is no step's.

        Raises StoreError if they cannot be written.
        """
        self._write(step, values)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        tqdm.write(f"epoch {step / self._steps_per_epoch:g}: {numbers}", file=sys.stderr)
        self._mark, self._waited = (time.perf_counter(), step), 0.0

    def picture(self, step: int, image: Image.Image) -> Path:
        """Write a picture of a step, whole or not at all, and answer its file. Raises StoreError if it cannot be written."""
        path = self._run / PICTURES / f"step-{step:08d}.png"
        with _reporting(path):
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            image.save(partial, "PNG")
            partial.replace(path)
            if self._events:
                self._events.add_image("picture", np.asarray(image), step, dataformats="HWC")
        return path

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        # JSON has no word for a number that is not finite
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with _reporting(self._run / METRICS):
            with (self._run / METRICS).open("ab") as file:
                file.write(_line({"step": step, "epoch": step / self._steps_per_epoch, **numbers}))
            if self._events:
                for name, value in values.items():
                    self._events.add_scalar(name, value, step)


def _open_events(folder: Path, start_step: int) -> "SummaryWriter | None":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        advice = f"{METRICS} holds the same numbers, and pip install 'ibot-hub[train]' installs it"
        print(f"TensorBoard is not installed, so nothing is written for it; {advice}.", file=sys.stderr)
        return None
    return SummaryWriter(str(folder), purge_step=start_step + 1, flush_secs=30)


def _cut(path: Path, step: int) -> None:
    """Leave the lines up to `step`; half a line, which a killed run may have left, goes too."""
    end = 0
    with suppress(FileNotFoundError), path.open("r+b") as file:
        try:
            for line in file:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                end += len(line)
        except (ValueError, LookupError, TypeError) as error:
            raise StoreError(
                f"{path} is damaged after {end:,} bytes; remove it, and the run goes on without its earlier numbers."
            ) from error
        file.truncate(end)


def _line(content: Mapping[str, float | str | None]) -> bytes:
    return json.dumps(content, allow_nan=False).encode() + b"\n"


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror or error}); put that right, and the same command goes on.") from error
