"""name -> file: what the catalogue names is downloaded once, checked, converted to safetensors, and kept in the cache."""

import json
import os
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import platformdirs
from filelock import FileLock
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError

from ibot_hub import weights
from ibot_hub.backbones import build_backbone, build_head, check_entry
from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import DownloadError, WeightsError
from ibot_hub.hub.answers import ANSWERS
from ibot_hub.hub.download import download, megabytes
from ibot_hub.hub.record import Record, check_unchanged, read_record, record_file, sha256, table_sha256, write_json

# exact names, so that a listing can name no other place; never a pickle
REPOSITORY_FILES = ("config.json", "preprocessor_config.json", "model.safetensors", weights.EXTRAS, ANSWERS)


def cache_folder() -> Path:
    """Where converted checkpoints are kept: IBOT_HUB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("IBOT_HUB_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("ibot-hub")


def fetch(checkpoint: Checkpoint, *, network: str | None = None, head: bool | None = None) -> Path:
    """A local, checked file or folder that `weights.read` opens; downloads what neither the package nor the cache holds.

    Args:
        network: "teacher", "student" or None for the one the catalogue names, else the teacher.
        head: True: with the projection head, whatever the download; False or None: the smallest download that serves. A file of the
            cache that holds the head serves all three.

    Raises:
        DownloadError: nobody publishes it, it cannot be reached, it arrived with the wrong bytes, or the cache cannot be written.
        WeightsError: the file in the package or the cache was changed, or what was published does not hold what was asked.
    """
    if checkpoint.embedded:
        return _embedded_file(checkpoint, checkpoint.embedded)
    if checkpoint.repository:
        return fetch_repository(checkpoint.repository, checkpoint.revision)
    network = network or checkpoint.network
    folder = cache_folder() / checkpoint.name
    try:
        found = cached_file(checkpoint, network=network, head=head)
        if found:
            return found
        file = checkpoint.file_for(network, bool(head))
        if file is None:
            what = f"the {network or 'teacher'}{' with its head' if head else ''}"
            raise DownloadError(f"No file published for {checkpoint.name} holds {what}; ask for less, or load a file of your own.")
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            # another process may have fetched it while this one waited
            return cached_file(checkpoint, network=network, head=head) or _obtain(checkpoint, file, network, head, folder)
    except (OSError, SafetensorError) as error:
        raise DownloadError(
            f"{checkpoint.name} cannot be put into the cache: {error}; make room in {cache_folder()}, or set IBOT_HUB_CACHE."
        ) from error


def _embedded_file(checkpoint: Checkpoint, name: str) -> Path:
    """A file that came with the package, to the byte."""
    path = Path(__file__).parents[1] / "embedded" / name
    if not path.exists() or sha256(path) != checkpoint.sha256[name]:
        raise WeightsError(f"{path} is not the file that ibot-hub ships; install it again: pip install --force-reinstall ibot-hub.")
    return path


def cached_file(checkpoint: Checkpoint, *, network: str | None = None, head: bool | None = None) -> Path | None:
    """The file of the cache that serves this request, unchanged since it came in; None if there is none.

    Raises:
        WeightsError: it was changed.
    """
    name = network or checkpoint.network or "teacher"
    for stem in (f"{name}-head",) if head else (f"{name}-head", name):
        path = cache_folder() / checkpoint.name / f"{stem}.safetensors"
        record = read_record(path)
        if record and path.exists():
            check_unchanged(path, record)
            return path
    return None


def fetch_repository(repo_id: str, revision: str | None = None) -> Path:
    """The folder with config.json and model.safetensors of a model on the Hugging Face Hub, kept in that hub's own cache.

    Raises:
        DownloadError: no such repository or revision, no access, no safetensors, or no connection.
    """
    name = f"{repo_id}@{revision}" if revision else repo_id
    try:
        cached = huggingface_hub.try_to_load_from_cache(repo_id, "model.safetensors", revision=revision)
        if not isinstance(cached, str) and not _offline():
            address = huggingface_hub.hf_hub_url(repo_id, "model.safetensors", revision=revision)
            size = huggingface_hub.get_hf_file_metadata(address).size or 0
            print(f"{name}: downloading {megabytes(size)} from {address}", file=sys.stderr)
        folder = Path(huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(REPOSITORY_FILES)))
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
        reason = str(error).splitlines()[0]
        raise DownloadError(
            f"{name} could not be fetched from Hugging Face: {reason}; try again later, or `hf auth login` where access is refused."
        ) from error
    if not (folder / "model.safetensors").exists():
        return folder  # `weights.read` says what is missing
    try:
        for file in folder.glob("*.safetensors"):
            _check_repository(repo_id, file)
    except OSError as error:
        raise DownloadError(f"{name} cannot be recorded: {error}; make room in {cache_folder()}, or set IBOT_HUB_CACHE.") from error
    return folder


def _check_repository(repo_id: str, file: Path) -> None:
    """Record a file of a repository's commit at first use; ever after it must be the same."""
    commit = file.parent.name
    known_as = cache_folder() / "repositories" / repo_id / commit / file.name
    record = read_record(known_as)
    if record:
        check_unchanged(file, record)
        return
    status, digest = file.stat(), sha256(file)
    stored = file.resolve()  # the hub's cache calls a large file by the digest that the hub gives for it
    if re.fullmatch("[0-9a-f]{64}", stored.name) and stored.name != digest:
        stored.unlink()
        file.unlink()
        raise DownloadError(f"hf-hub:{repo_id}: {file.name} arrived with the sha256 {digest}, not {stored.name}; it is removed, try again.")
    record = Record(f"hf-hub:{repo_id}@{commit}", digest, False, digest, status.st_size, status.st_mtime_ns, table_sha256(file))
    known_as.parent.mkdir(parents=True, exist_ok=True)
    write_json(record_file(known_as), asdict(record))


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _obtain(checkpoint: Checkpoint, file: str, network: str | None, head: bool | None, folder: Path) -> Path:
    """Download, check, convert; the original goes once it is converted, or found to be of no use. A folder's files stay as they are."""
    source = _source(checkpoint, file)
    if isinstance(source, Path):
        return _convert(checkpoint, source, str(source), file, network, head, folder)
    if _offline():
        raise DownloadError(
            f"{checkpoint.name} is not in the cache {cache_folder()} and HF_HUB_OFFLINE is set; unset it once, "
            f"or copy {file} to <folder>/{checkpoint.folder}/ and set IBOT_HUB_MIRROR to that folder."
        )
    original = folder / file
    download(source, original, _announcement(checkpoint, file, head, source), checkpoint.sizes.get(file))
    try:
        path = _convert(checkpoint, original, source, file, network, head, folder)
    except (DownloadError, WeightsError):
        original.unlink()
        raise
    original.unlink()
    return path


def _source(checkpoint: Checkpoint, file: str) -> str | Path:
    """The address of `file`, or its path where the mirror is a folder."""
    mirror = os.environ.get("IBOT_HUB_MIRROR")
    place = f"{checkpoint.folder}/{file}"
    if mirror and not mirror.startswith(("http://", "https://")):
        path = Path(mirror).expanduser() / place
        if path.exists():
            return path
        by_hand = "" if checkpoint.host else f" {checkpoint.notes}"
        raise DownloadError(f"{path} does not exist; put {file} there, or unset IBOT_HUB_MIRROR.{by_hand}")
    host = mirror or checkpoint.host
    if host:
        return f"{host.rstrip('/')}/{place}"
    raise DownloadError(
        f"{checkpoint.name} has to be fetched by hand. {checkpoint.notes} Then ibot_hub.load('/path/to/file'), "
        f"or put it at {place} in a folder that IBOT_HUB_MIRROR names."
    )


def _announcement(checkpoint: Checkpoint, file: str, head: bool | None, url: str) -> str:
    backbone = checkpoint.backbone_file
    if file == backbone:
        return f"{checkpoint.name}: downloading the backbone: {{size}} from {url}"
    if not backbone:
        return f"{checkpoint.name}: downloading the full checkpoint, the only file there is: {{size}} from {url}"
    holds = "the head" if head else "this network"
    size = checkpoint.sizes.get(backbone)
    alone = f" (the backbone alone: {megabytes(size)})" if size else ""
    return f"{checkpoint.name}: downloading the full checkpoint, because only it holds {holds}: {{size}} from {url}{alone}"


def _convert(
    checkpoint: Checkpoint, original: Path, url: str, file: str, network: str | None, head: bool | None, folder: Path
) -> Path:  # fmt: skip
    """Check `original` before anything opens it, then keep what was asked for as one safetensors file with its record."""
    digest, verified = _check_digest(checkpoint, original, file)
    if file == checkpoint.backbone_file:
        content = weights.read(original, None, head)
        if content.origin.container == "full":  # a mirror may hold the full file under this name
            content = weights.read(original, network, head)
        if network == "teacher" and content.mask_token is not None:
            raise WeightsError(f"{original} has a mask token, as only students do; {checkpoint.name} is a teacher. Load it by its path.")
        # a file of one network seldom says which; the catalogue does
        content = replace(content, origin=replace(content.origin, network=network or content.origin.network))
    else:
        content = weights.read(original, network, head)
    backbone = build_backbone(content, original)
    check_entry(checkpoint, backbone, build_head(content, backbone, original), original)
    stem = (network or "teacher") + ("-head" if content.head else "")
    path, temporary = folder / f"{stem}.safetensors", folder / f".{stem}.safetensors.tmp"
    weights.save(content, temporary)  # leaves nothing where it fails
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    status = temporary.stat()
    record = Record(url, digest, verified, sha256(temporary), status.st_size, status.st_mtime_ns, table_sha256(temporary))
    if not verified:
        _remember_digest(checkpoint, file, digest)
    write_json(record_file(path), asdict(record))  # first: a file without its record does not count as cached
    temporary.replace(path)
    return path


def _check_digest(checkpoint: Checkpoint, original: Path, file: str) -> tuple[str, bool]:
    """The digest of `original`, and whether the catalogue vouches for it."""
    digest, published = sha256(original), checkpoint.sha256.get(file)
    expected, whence = published, "the catalogue"
    if not published:
        expected, whence = _remembered_digests(checkpoint).get(file), f"its first use, recorded in {_digests_file(checkpoint)}"
    if expected and digest != expected:
        raise DownloadError(
            f"{checkpoint.name}: {file} has the sha256 {digest}, but {expected} is known from {whence}; it was not opened. "
            "Try again or take another mirror; if its authors changed it, load it by its path."
        )
    return digest, published is not None


def _digests_file(checkpoint: Checkpoint) -> Path:
    return cache_folder() / "digests" / f"{checkpoint.name}.json"  # not beside the weights: it outlives them


def _remembered_digests(checkpoint: Checkpoint) -> dict[str, str]:
    file = _digests_file(checkpoint)
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (ValueError, TypeError) as error:
        raise DownloadError(f"{file} is damaged, so nothing is known of the first use; remove it to trust the next download.") from error


def _remember_digest(checkpoint: Checkpoint, file: str, digest: str) -> None:
    _digests_file(checkpoint).parent.mkdir(exist_ok=True)
    write_json(_digests_file(checkpoint), _remembered_digests(checkpoint) | {file: digest})
