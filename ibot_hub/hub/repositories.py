"""hf-hub:organisation/name -> folder: a model of the Hugging Face Hub, kept in that hub's own cache and the same ever after."""

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from ibot_hub.errors import DownloadError
from ibot_hub.hub.download import megabytes, offline
from ibot_hub.hub.places import cache_folder, repository_folder
from ibot_hub.hub.record import Record, check_unchanged, read_record, record_file, sha256, table_sha256, write_json
from ibot_hub.hub.runs import RECIPE, STATE
from ibot_hub.origin import ANSWERS, EXTRAS

PREFIX = "hf-hub:"  # of a name that is a repository
WEIGHTS = "model.safetensors"
# exact names, so that a listing can name no other place; never a pickle
FILES = ("config.json", "preprocessor_config.json", WEIGHTS, EXTRAS, ANSWERS)


def split_name(name: str) -> tuple[str, str | None]:
    """ "hf-hub:organisation/name@revision" -> the repository and, where it is there, the revision."""
    repo_id, _, revision = name.removeprefix(PREFIX).partition("@")
    return repo_id, revision or None


def fetch_repository(repo_id: str, revision: str | None = None) -> Path:
    """The folder with config.json and model.safetensors of a model on the Hugging Face Hub, kept in that hub's own cache.

    Raises:
        DownloadError: no such repository or revision, no access, no safetensors, or no connection.
    """
    name = _full_name(repo_id, revision)
    with _told(repo_id, revision):
        if offline() or cached_weights(repo_id, revision):
            folder = _snapshot(repo_id, revision)
        else:
            address = huggingface_hub.hf_hub_url(repo_id, WEIGHTS, revision=revision)
            size = huggingface_hub.get_hf_file_metadata(address).size or 0  # before anything is written: is it there at all?
            with lock_repository(repo_id):
                if not cached_weights(repo_id, revision):  # by another process, while this one waited
                    print(f"{name}: downloading {megabytes(size)} from {address}", file=sys.stderr)
                folder = _snapshot(repo_id, revision)
    if not (folder / WEIGHTS).exists():
        return folder  # `weights.read` says what is missing
    try:
        for file in folder.glob("*.safetensors"):
            _check_repository(repo_id, file)
    except OSError as error:
        raise _unrecorded(name, error) from error
    return folder


def fetch_state(repo_id: str, revision: str | None = None) -> Path:
    """As `fetch_repository`, with the training state that `ibot push --with-training-state` puts beside the model, in training/.

    Raises:
        DownloadError: as there, or the repository has no training state.
    """
    name, folder = _full_name(repo_id, revision), fetch_repository(repo_id, revision)
    if not all((folder / file).exists() for file in STATE):
        if offline():
            raise DownloadError(
                f"The training state of {name} is not in the cache of Hugging Face, and HF_HUB_OFFLINE is set; unset it once."
            )
        with _told(repo_id, revision):
            _fetch_state_files(repo_id, folder.name, name)
    try:
        _check_repository(repo_id, folder / STATE[0])
    except OSError as error:
        raise _unrecorded(name, error) from error
    return folder


def _fetch_state_files(repo_id: str, commit: str, name: str) -> None:
    there = huggingface_hub.HfApi().list_repo_files(repo_id, revision=commit)
    if not {*STATE} <= {*there}:
        raise DownloadError(
            f"hf-hub:{name} has no training state, only {', '.join(file for file in there if not file.startswith('.'))}; its owner adds it "
            f"by `ibot push RUN {repo_id} --with-training-state`, and the model alone starts a run where `ibot train --from` is given the "
            f"folder that `ibot download hf-hub:{name}` prints."
        )
    address = huggingface_hub.hf_hub_url(repo_id, STATE[0], revision=commit)
    size = huggingface_hub.get_hf_file_metadata(address).size or 0
    with lock_repository(repo_id):
        if not _cached(repo_id, STATE[0], commit):  # by another process, while this one waited
            print(f"{name}: downloading the training state, {megabytes(size)} from {address}", file=sys.stderr)
        huggingface_hub.snapshot_download(repo_id, revision=commit, allow_patterns=[RECIPE, *STATE])


def locate_repository(repo_id: str, revision: str | None = None) -> Path:
    """What `fetch_repository` answers where nothing has to be fetched; it opens no connection and checks nothing.

    Raises:
        DownloadError: it is not in Hugging Face's cache.
    """
    with _told(repo_id, revision):
        cached = cached_weights(repo_id, revision)
    if cached is None:
        name = _full_name(repo_id, revision)
        raise DownloadError(f"hf-hub:{name} is not in the cache of Hugging Face; `ibot download hf-hub:{name}` fetches it.")
    return cached.parent


def cached_weights(repo_id: str, revision: str | None) -> Path | None:
    """Where Hugging Face's cache has the model.safetensors of that revision, if it has; opens no connection."""
    return _cached(repo_id, WEIGHTS, revision)


def _cached(repo_id: str, file: str, revision: str | None) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(repo_id, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def read_repository_record(repo_id: str, file: Path) -> Record | None:
    """What was recorded of a file of a repository's commit at its first use."""
    return read_record(_known_as(repo_id, file))


def digest_of_hub(file: Path) -> str | None:
    """What the hub says of a file in its cache: 64 digits are the sha256 of a large file, 40 the name git gives to a small one.

    The cache calls a file by that digest; None where it cannot make links, or the server said something else.
    """
    stored = file.readlink().name if file.is_symlink() else ""  # what that links to in turn may be called by a digest of another kind
    return stored if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", stored) else None


def agrees_with_hub(file: Path, digest: str, told: str) -> bool:
    """Whether a file whose sha256 is `digest` has the digest that `digest_of_hub` told."""
    if len(told) == len(digest):
        return told == digest
    body = file.read_bytes()
    return told == hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@contextmanager
def lock_repository(repo_id: str) -> Iterator[None]:
    """Held by the one process that downloads or removes files of that repository; the others wait.

    Raises:
        DownloadError: the cache cannot be written.
    """
    folder = repository_folder(repo_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        raise _unrecorded(repo_id, error) from error
    try:
        yield
    finally:
        lock.release()


def _full_name(repo_id: str, revision: str | None) -> str:
    return f"{repo_id}@{revision}" if revision else repo_id


def _snapshot(repo_id: str, revision: str | None) -> Path:
    return Path(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))


@contextmanager
def _told(repo_id: str, revision: str | None) -> Iterator[None]:
    """What the hub's client raises, as one sentence."""
    name = _full_name(repo_id, revision)
    try:
        yield
    except hub_errors.HFValidationError as error:
        raise DownloadError(f"{repo_id!r} is no name of a repository; it is written hf-hub:organisation/name.") from error
    except hub_errors.GatedRepoError as error:
        raise DownloadError(f"{name} is gated: accept its terms on https://huggingface.co/{repo_id}, then `hf auth login`.") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise DownloadError(f"There is no repository {repo_id} for you: check the name, or `hf auth login` if it is private.") from error
    except hub_errors.RevisionNotFoundError as error:
        raise DownloadError(f"{repo_id} has no revision {revision!r}; leave it out to take the newest.") from error
    except hub_errors.RemoteEntryNotFoundError as error:
        raise DownloadError(f"{name} has no model.safetensors, and pickles are not fetched; ask its authors for safetensors.") from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{name} is not (wholly) in the cache of Hugging Face, and the hub is out of reach; connect, or unset HF_HUB_OFFLINE."
        ) from error
    except hub_errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx's or httpx2's, as the version of the hub has it
        if isinstance(error, hub_errors.HfHubHTTPError) and error.response.status_code == 401 and huggingface_hub.get_token():
            raise DownloadError(
                f"{name} could not be fetched: {constants.ENDPOINT} refuses your token; `hf auth login` with another, "
                "or unset HF_TOKEN: what is public needs none."
            ) from error
        reason = str(error).splitlines()[0]
        raise DownloadError(
            f"{name} could not be fetched from Hugging Face: {reason}; try again later, or `hf auth login` where access is refused."
        ) from error
    except OSError as error:
        raise DownloadError(f"{name} cannot be put into the cache of Hugging Face: {error}; make room, or set HF_HOME.") from error


def _commit_of(file: Path) -> Path:
    """The folder of the commit that a file in Hugging Face's cache belongs to."""
    return next((folder for folder in file.parents if folder.parent.name == "snapshots"), file.parent)


def _known_as(repo_id: str, file: Path) -> Path:
    commit = _commit_of(file)
    return repository_folder(repo_id) / commit.name / file.relative_to(commit)


def _check_repository(repo_id: str, file: Path) -> None:
    """Record a file of a repository's commit at first use; ever after it must be the same."""
    record = read_repository_record(repo_id, file)
    if record:
        check_unchanged(file, record)
        return
    status, digest, told = file.stat(), sha256(file), digest_of_hub(file)
    if told and not agrees_with_hub(file, digest, told):
        for link in (file.resolve(), file.parent / file.readlink(), file):
            link.unlink(missing_ok=True)
        raise DownloadError(f"hf-hub:{repo_id}: {file.name} arrived with the sha256 {digest}, not {told}; it is removed, try again.")
    commit, known_as = _commit_of(file).name, _known_as(repo_id, file)
    record = Record(f"hf-hub:{repo_id}@{commit}", digest, False, digest, status.st_size, status.st_mtime_ns, table_sha256(file))
    known_as.parent.mkdir(parents=True, exist_ok=True)
    write_json(record_file(known_as), asdict(record))


def _unrecorded(name: str, error: OSError) -> DownloadError:
    return DownloadError(f"{name} cannot be recorded: {error}; make room in {cache_folder()}, or set IBOT_HUB_CACHE.")
