"""What is in the cache, model by model, and how it leaves."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import huggingface_hub
import safetensors
from filelock import FileLock, Timeout
from huggingface_hub import constants

from ibot_hub.catalog import info
from ibot_hub.errors import CacheError, WeightsError
from ibot_hub.hub.places import cache_folder, digests_file, digests_folder, repositories_folder, repository_folder
from ibot_hub.hub.record import Record, read_record, record_file
from ibot_hub.hub.repositories import PREFIX, WEIGHTS, cached_weights, lock_repository, split_name

LOCK = ".lock"  # stays: whoever waits for it waits for this very file


@dataclass(frozen=True)
class Cached:
    """One file of a name of the catalogue, or one commit of a repository."""

    name: str  # of the catalogue, or "hf-hub:organisation/name@commit"
    files: tuple[Path, ...]
    size: int  # bytes
    network: str | None  # "teacher", "student"; None where nothing says
    head: bool  # with the projection head
    state: str  # "verified": the catalogue knows the digest; "first use": it was recorded; "incomplete": a part, or without its record
    date: str  # when it came, ISO 8601 in UTC
    hugging_face: bool  # its files are in Hugging Face's own cache, which other libraries use too


def list_cache() -> tuple[Cached, ...]:
    """All that is there: names of the catalogue, then repositories that came through ibot-hub and are still there.

    Raises:
        CacheError: the cache cannot be read.
    """
    try:
        repositories = ((*commit, folder) for commit in _recorded_commits() if (folder := _folder_of(*commit)))
        return (*(cached for folder in _folders() for cached in _of_folder(folder)), *(_of_repository(*each) for each in repositories))
    except OSError as error:
        raise CacheError(f"The cache {cache_folder()} cannot be read: {error}.") from error


def clear_cache(names: Sequence[str] | None = None, *, forget: bool = False) -> dict[str, int]:
    """Remove the files of these models; a download that is running is waited for, and what it brings is removed too.

    Args:
        names: of the catalogue, or hf-hub:org/name with @REVISION if need be. None: all but repositories, whose files are in Hugging
            Face's own cache, which other libraries use too.
        forget: the digests that were recorded at first use as well. Else they stay, and a file that was changed upstream is refused.

    Returns:
        Bytes that were freed, by name.

    Raises:
        UnknownModelError: no such name; CacheError: a file cannot be removed.
    """
    try:
        folders = {folder.name: folder for folder in _folders()}
        freed = {name: _clear(name, folders, forget) for name in (sorted(folders) if names is None else names)}
        if names is None and forget:
            shutil.rmtree(digests_folder(), ignore_errors=True)
        return freed
    except OSError as error:
        raise CacheError(f"The cache {cache_folder()} cannot be cleared: {error}.") from error


def _clear(name: str, folders: Mapping[str, Path], forget: bool) -> int:
    entry = None if name in folders or name.startswith(PREFIX) else info(name)
    if entry and entry.repository:
        name = PREFIX + entry.repository
    if name.startswith(PREFIX):
        return _clear_repository(*split_name(name), forget)
    if forget:
        digests_file(name).unlink(missing_ok=True)
    return _clear_folder(folders[name]) if name in folders else 0


def _clear_folder(folder: Path) -> int:
    freed = 0
    with _locked(folder):
        for file in folder.iterdir():
            if file.name != LOCK:
                freed += file.stat().st_size
                file.unlink()
    return freed


def _clear_repository(repo_id: str, revision: str | None, forget: bool) -> int:
    """Through Hugging Face's own library, which knows what other commits of the repository still need."""
    freed = 0
    there = cached_weights(repo_id, revision) if revision else None
    chosen = there.parent.name if there else revision
    commits = [commit for recorded, commit in _recorded_commits() if recorded == repo_id and chosen in (None, commit)]
    present = [commit for commit in commits if _folder_of(repo_id, commit)]
    if present:
        with lock_repository(repo_id):
            removal = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*present)
            removal.execute()
            freed = removal.expected_freed_size
    for commit in commits if forget else ():
        shutil.rmtree(repository_folder(repo_id) / commit)
    return freed


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder.name} is being downloaded; waiting for the end of it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _folders() -> list[Path]:
    """Those of the names of the catalogue."""
    root, others = cache_folder(), (digests_folder(), repositories_folder())
    return sorted(path for path in root.iterdir() if path.is_dir() and path not in others) if root.is_dir() else []


def _of_folder(folder: Path) -> Iterator[Cached]:
    left = {file for file in folder.iterdir() if file.name != LOCK}
    for file in sorted(left):
        record = _record_of(file) if file.suffix == ".safetensors" else None
        if record:
            left -= {file, record_file(file)}
            network, _, head = file.stem.partition("-")
            state = "verified" if record.verified else "first use"
            known = network if network in ("teacher", "student") else None  # else it is what both have in common
            yield Cached(folder.name, (file,), file.stat().st_size, known, bool(head), state, _date(record.modified), False)
    if left:
        size, newest = sum(file.stat().st_size for file in left), max(file.stat().st_mtime_ns for file in left)
        yield Cached(folder.name, tuple(sorted(left)), size, None, False, "incomplete", _date(newest), False)


def _record_of(file: Path) -> Record | None:
    try:
        return read_record(file)
    except WeightsError:  # damaged, which loading tells
        return None


def _recorded_commits() -> Iterator[tuple[str, str]]:
    """Repository and commit, of each that was recorded."""
    root = repositories_folder()
    for file in sorted(root.rglob(record_file(Path(WEIGHTS)).name)):
        yield file.parents[1].relative_to(root).as_posix(), file.parent.name


def _folder_of(repo_id: str, commit: str) -> Path | None:
    there = cached_weights(repo_id, commit)
    return there.parent if there else None


def _of_repository(repo_id: str, commit: str, folder: Path) -> Cached:
    files = tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
    came = max(file.stat().st_mtime_ns for file in files)
    network, head = _stated(file for file in files if file.suffix == ".safetensors")
    size = sum(file.stat().st_size for file in files)
    return Cached(f"{PREFIX}{repo_id}@{commit}", files, size, network, head, "first use", _date(came), True)


def _stated(files: Iterable[Path]) -> tuple[str | None, bool]:
    """Network and head, where one of the files is of ibot-hub and says so."""
    for file in files:
        with suppress(safetensors.SafetensorError, ValueError, LookupError, TypeError), safetensors.safe_open(file, "np") as opened:
            said = json.loads((opened.metadata() or {})["ibot_hub"])
            return said["network"], any(name.startswith("head.") for name in opened.keys())  # noqa: SIM118
    return None, False


def _date(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="seconds")
