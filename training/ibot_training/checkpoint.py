"""The folder of a run: its checkpoints and exported networks, each of them whole or not there."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from ibot_hub import weights
from ibot_hub.errors import StoreError
from ibot_hub.naming import split_head
from ibot_hub.origin import Origin

RECIPE = "recipe.toml"
CHECKPOINTS = "checkpoints"
TENSORS, FACTS = "state.safetensors", "state.json"
LOCK = ".lock"
PARTIAL = ".partial"  # what is being written or removed; what a killed run leaves there, the next save removes
_CHECKPOINT = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True, eq=False)
class State:
    """What a checkpoint holds."""

    step: int  # optimiser steps done
    tensors: Mapping[str, Tensor]  # on the CPU
    facts: Mapping[str, Any]  # as JSON has them: a tuple has become a list


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's folder, which is made if need be, against other processes; a killed one holds nothing.

    Raises StoreError if another one holds it, or it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(f"{run} is being written by another run; wait for its end, or choose another --out.") from error
    except OSError as error:
        raise StoreError(
            f"{run} cannot be locked ({error.strerror or error}); make the folder writable, or choose another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def save(run: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write the checkpoint of `step`, whole and on the disk or not at all, and answer its folder.

    Args:
        run: the run's folder; made if need be.
        step: optimiser steps done. One that was saved before is replaced; its folder then ends in `.1`, `.2`, ...
        tensors: of any shape, dtype and device; where two are views of the same memory, each is written for itself.
        facts: whatever else JSON can hold.

    Raises:
        StoreError: the disk is full or not writable; it names the last good checkpoint, and all earlier ones are as they were.
    """
    with _writing(run) as partial:
        file = partial / TENSORS
        safetensors.torch.save_file(_apart(tensors), file)
        content = {"step": step, "facts": facts, "size": file.stat().st_size, "digest": _digest(file, step, facts)}
        (partial / FACTS).write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")
        _to_disk(partial)
        same = [(number, path) for saved, number, path in _saved(run) if saved == step]
        # a name of its own: between the removal of the old one and the arrival of the new one there would be none
        suffix = f".{same[-1][0] + 1}" if same else ""
        target = run / CHECKPOINTS / f"step-{step:08d}{suffix}"
        target.parent.mkdir(exist_ok=True)
        partial.rename(target)
        _sync(target.parent)
        for _, path in same:
            _discard(run, path)
    return target


def load(path: Path) -> State:
    """What `save` wrote to that folder, bit for bit. Raises StoreError unless all of it is as it was written."""
    step, facts = _checked(path)
    with safetensors.safe_open(path / TENSORS, "pt") as file:
        # copies let go of the mapped file, which may be pruned
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return State(step, tensors, facts)


def begun(run: Path) -> bool:
    """Whether the run has saved a checkpoint, whole or damaged."""
    return bool(_saved(run))


def latest(run: Path, warn: Callable[[str], object]) -> Path | None:
    """The newest whole checkpoint of a run; None where none was saved yet.

    `warn` is given a sentence for every newer one that is damaged. Raises StoreError if all are.
    """
    saved = _saved(run)
    for _, _, path in reversed(saved):
        try:
            _checked(path)
        except StoreError as error:
            warn(str(error))
        else:
            return path
    if saved:
        raise StoreError(f"No checkpoint in {run / CHECKPOINTS} is whole; put a copy of one back, or start again with another --out.")
    return None


def prune(run: Path, step: int, keep: int, keep_every: int) -> None:
    """Remove the checkpoints that need not stay.

    Args:
        step: the one just saved, which stays. What lies beyond it goes: it was damaged, or belongs to a course that was left.
        keep: how many of the newest stay beside those of `keep_every`.
        keep_every: steps; the first checkpoint at or after every multiple of it stays. 0: none stays.

    Raises:
        StoreError: one of them cannot be removed.
    """
    saved = _saved(run)
    so_far = [(number, path) for number, _, path in saved if number <= step]
    milestones: dict[int, Path] = {}
    for number, path in so_far:
        if keep_every and number >= keep_every:
            milestones.setdefault(number // keep_every, path)
    others = [path for _, path in so_far if path not in milestones.values()]
    stays = {so_far[-1][1], *milestones.values(), *others[max(len(others) - keep, 0) :]}
    with _reporting(run):
        for _, _, path in saved:
            if path not in stays:
                _discard(run, path)


def export(run: Path, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], origin: Origin) -> None:
    """Write teacher.safetensors and student.safetensors, each whole or as it was before, for `ibot_hub.load(run)`.

    Args:
        teacher, student: `backbone.` in timm's names, `head.` in those of `ibot_hub.head.Head`, `mask_token` [1, D] of the student.
        origin: what both have in common; which network each is, is added.

    Raises:
        StoreError: the disk is full or not writable.
    """
    with _writing(run) as partial:
        for network, tensors in (("teacher", teacher), ("student", student)):
            own = dict(_apart(tensors))
            mask_token = own.pop("mask_token", None)
            backbone, head = split_head(own)
            exported = weights.Weights(backbone, head, mask_token, replace(origin, network=network))
            weights.save(exported, partial / f"{network}.safetensors")
        _to_disk(partial)
        for file in list(partial.iterdir()):
            file.replace(run / file.name)
        _sync(run)


def is_exported(run: Path, path: Path) -> bool:
    """Whether teacher.safetensors and student.safetensors are there, and are the networks of the checkpoint in `path`."""
    try:
        with safetensors.safe_open(path / TENSORS, "pt") as state:
            for network in ("teacher", "student"):
                with safetensors.safe_open(run / f"{network}.safetensors", "pt") as file:
                    names = file.keys()
                    if not all(file.get_tensor(name).equal(state.get_tensor(f"{network}.{name}")) for name in names):
                        return False
    except (OSError, SafetensorError):  # no file, or no such tensor
        return False
    return True


def _saved(run: Path) -> list[tuple[int, int, Path]]:
    """Step, number among those of the same step, and folder of every checkpoint, oldest first."""
    folders = ((_CHECKPOINT.fullmatch(path.name), path) for path in (run / CHECKPOINTS).glob("step-*"))
    return sorted((int(match[1]), int(match[2] or 0), path) for match, path in folders if match)


def _checked(path: Path) -> tuple[int, dict[str, Any]]:
    """Step and facts of a checkpoint. Raises StoreError unless all of it is as it was written."""
    try:
        content = json.loads((path / FACTS).read_bytes())
        size = (path / TENSORS).stat().st_size
        if size != content["size"]:
            raise ValueError(f"{TENSORS} has {size:,} bytes, not {content['size']:,}")
        if _digest(path / TENSORS, content["step"], content["facts"]) != content["digest"]:
            raise ValueError("its content is another than was written")
        if type(content["step"]) is not int or content["step"] < 0 or not isinstance(content["facts"], dict):
            raise ValueError("it does not say after which step it was saved")
        return content["step"], content["facts"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{path} is no whole checkpoint ({error}); an earlier one has to be taken.") from error


def _digest(file: Path, step: int, facts: Mapping[str, Any]) -> str:
    """Of the tensors as they lie on the disk, then of what stands beside them."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
    digest.update(json.dumps([step, facts]).encode("ascii"))
    return digest.hexdigest()


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and none in the memory of another, as safetensors wants them."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


@contextmanager
def _writing(run: Path) -> Iterator[Path]:
    """A new hidden folder in the run's, which is gone afterwards: its content is to be moved to where it belongs."""
    with _reporting(run):
        partial = run / PARTIAL
        run.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir()
        try:
            yield partial
        finally:
            _remove(partial)


@contextmanager
def _reporting(run: Path) -> Iterator[None]:
    """What the disk refuses becomes a StoreError that names the last good checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        good = None
        with suppress(StoreError):
            good = latest(run, lambda sentence: None)
        last = f"the last good checkpoint is {good}" if good else "there is no good checkpoint yet"
        raise StoreError(
            f"{run} cannot be written ({getattr(error, 'strerror', None) or error}); {last}; "
            "free space, or make the folder writable, and run the same command again to go on."
        ) from error


def _discard(run: Path, path: Path) -> None:
    """Remove a checkpoint at once: it is hidden before any of it goes."""
    _remove(run / PARTIAL)
    path.rename(run / PARTIAL)
    _remove(run / PARTIAL)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _to_disk(folder: Path) -> None:
    """Wait until the folder's files are on the disk; who may read others of this user may read them (safetensors says nobody)."""
    for file in folder.iterdir():
        file.chmod(folder.stat().st_mode & 0o666)
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
