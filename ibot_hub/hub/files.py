"""name -> file: what the catalogue names is downloaded once, checked, converted to safetensors, and kept in the cache."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from ibot_hub import weights
from ibot_hub.backbones import build_backbone, build_head, check_entry
from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import DownloadError, WeightsError
from ibot_hub.hub.download import download, megabytes, offline
from ibot_hub.hub.places import cache_folder, digests_file, model_folder
from ibot_hub.hub.record import Record, check_unchanged, read_record, record_file, sha256, table_sha256, write_json
from ibot_hub.hub.repositories import fetch_repository, locate_repository


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
        path = _embedded_file(checkpoint.embedded)
        if sha256(path) != checkpoint.sha256[checkpoint.embedded]:
            raise WeightsError(not_as_shipped(path))
        return path
    if checkpoint.repository:
        return fetch_repository(checkpoint.repository, checkpoint.revision)
    network = network or checkpoint.network
    with told(checkpoint):
        found = cached_file(checkpoint, network=network, head=head)
        if found:
            return found
        file = checkpoint.file_for(network, bool(head))
        if file is None:
            what = f"the {network or 'teacher'}{' with its head' if head else ''}"
            raise DownloadError(f"No file published for {checkpoint.name} holds {what}; ask for less, or load a file of your own.")
        with locked(checkpoint):
            found = cached_file(checkpoint, network=network, head=head)  # another process may have fetched it while this one waited
            if found:
                return found
            with published(checkpoint, file, head) as (original, url):
                return convert(checkpoint, original, url, file, network, head)


@contextmanager
def told(checkpoint: Checkpoint) -> Iterator[None]:
    """What the disk refuses, as one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DownloadError(
            f"{checkpoint.name} cannot be put into the cache: {error}; make room in {cache_folder()}, or set IBOT_HUB_CACHE."
        ) from error


@contextmanager
def locked(checkpoint: Checkpoint) -> Iterator[None]:
    """Held by the one process that fetches this model."""
    folder = model_folder(checkpoint.name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def locate(checkpoint: Checkpoint, *, network: str | None = None, head: bool | None = None) -> Path:
    """What `fetch` answers where nothing has to be fetched; it opens no connection and checks nothing.

    Raises:
        DownloadError: it is not in the cache.
        WeightsError: its record is damaged, or the file has gone from the package.
    """
    if checkpoint.embedded:
        return _embedded_file(checkpoint.embedded)
    if checkpoint.repository:
        return locate_repository(checkpoint.repository, checkpoint.revision)
    found = _recorded_file(checkpoint, network, head)
    if found is None:
        words = [checkpoint.name, *(["--network", network] if network else []), *(["--head"] if head else [])]
        raise DownloadError(f"{checkpoint.name} is not in the cache {cache_folder()}; `ibot download {' '.join(words)}` fetches it.")
    return found[0]


def _embedded_file(name: str) -> Path:
    path = Path(__file__).parents[1] / "embedded" / name
    if not path.exists():
        raise WeightsError(not_as_shipped(path))
    return path


def not_as_shipped(path: Path) -> str:
    """The sentence for a file of the package that is not there, or not to the byte."""
    return f"{path} is not the file that ibot-hub ships; install it again: pip install --force-reinstall ibot-hub."


def cached_file(checkpoint: Checkpoint, *, network: str | None = None, head: bool | None = None) -> Path | None:
    """The file of the cache that serves this request, unchanged since it came in; None if there is none.

    Raises:
        WeightsError: it was changed.
    """
    found = _recorded_file(checkpoint, network, head)
    if found is None:
        return None
    check_unchanged(*found)
    return found[0]


def _recorded_file(checkpoint: Checkpoint, network: str | None, head: bool | None) -> tuple[Path, Record] | None:
    name = network or checkpoint.network or "teacher"
    for stem in (f"{name}-head",) if head else (f"{name}-head", name):
        path = model_folder(checkpoint.name) / f"{stem}.safetensors"
        record = read_record(path)
        if record and path.exists():
            return path, record
    return None


@contextmanager
def published(checkpoint: Checkpoint, file: str, head: bool | None) -> Iterator[tuple[Path, str]]:
    """A published file and where it is from: downloaded, or where it lies if the mirror is a folder.

    What was downloaded goes once it is converted, or found to be of no use. A folder's files stay as they are.
    """
    source = _source(checkpoint, file)
    if isinstance(source, Path):
        yield source, str(source)
        return
    if offline():
        raise DownloadError(
            f"{checkpoint.name} is not in the cache {cache_folder()} and HF_HUB_OFFLINE is set; unset it once, "
            f"or copy {file} to <folder>/{checkpoint.folder}/ and set IBOT_HUB_MIRROR to that folder."
        )
    original = model_folder(checkpoint.name) / file
    download(source, original, _announcement(checkpoint, file, head, source), checkpoint.sizes.get(file))
    try:
        yield original, source
    except (DownloadError, WeightsError):
        original.unlink()
        raise
    original.unlink()


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


def convert(checkpoint: Checkpoint, original: Path, url: str, file: str, network: str | None, head: bool | None) -> Path:
    """Check `original` before anything opens it, then keep what was asked for as one safetensors file with its record."""
    digest, verified = check_digest(checkpoint, original, file)
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
    path = model_folder(checkpoint.name) / f"{stem}.safetensors"
    if not verified:
        _remember_digest(checkpoint.name, file, digest)
    keep(path, partial(weights.save, content), url, digest, verified)
    return path


def keep(path: Path, write: Callable[[Path], None], url: str, digest: str, verified: bool) -> None:
    """A new file of the cache with its record, whole or not there at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)  # leaves nothing where it fails
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    status = temporary.stat()
    record = Record(url, digest, verified, sha256(temporary), status.st_size, status.st_mtime_ns, table_sha256(temporary))
    write_json(record_file(path), asdict(record))  # first: a file without its record does not count as cached
    temporary.replace(path)


def check_digest(checkpoint: Checkpoint, original: Path, file: str) -> tuple[str, bool]:
    """The digest of `original`, and whether the catalogue vouches for it."""
    digest, published = sha256(original), checkpoint.sha256.get(file)
    expected, whence = published, "the catalogue"
    if not published:
        expected, whence = remembered_digests(checkpoint.name).get(file), f"its first use, recorded in {digests_file(checkpoint.name)}"
    if expected and digest != expected:
        raise DownloadError(
            f"{checkpoint.name}: {file} has the sha256 {digest}, but {expected} is known from {whence}; it was not opened. "
            "Try again or take another mirror; if its authors changed it, load it by its path."
        )
    return digest, published is not None


def remembered_digests(name: str) -> dict[str, str]:
    """File name -> sha256 of each original of that model at its first use, where the catalogue knew none."""
    file = digests_file(name)
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (ValueError, TypeError) as error:
        raise DownloadError(f"{file} is damaged, so nothing is known of the first use; remove it to trust the next download.") from error


def _remember_digest(name: str, file: str, digest: str) -> None:
    digests_file(name).parent.mkdir(exist_ok=True)
    write_json(digests_file(name), remembered_digests(name) | {file: digest})
