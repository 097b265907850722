"""Everything about a model's files is checked once more, in full: digests, tensors, answers."""

from dataclasses import dataclass, replace
from pathlib import Path

from ibot_hub import weights
from ibot_hub.catalog import CATALOG, Checkpoint
from ibot_hub.errors import WeightsError
from ibot_hub.hub.answers import TOLERANCE, answers_beside, check_answers
from ibot_hub.hub.files import locate, not_as_shipped, remembered_digests
from ibot_hub.hub.record import Record, read_record, sha256, table_sha256
from ibot_hub.hub.repositories import FILES, PREFIX, agrees_with_hub, digest_of_hub, locate_repository, read_repository_record
from ibot_hub.loading import Found, find, open_found
from ibot_hub.model import Card, Model
from ibot_hub.origin import ANSWERS


@dataclass(frozen=True)
class Check:
    """One check of one file, or of the model as a whole."""

    what: str  # "sha256", "original" (the file as it was published), "tensors", "answers"
    file: str  # its name
    passed: bool | None  # None: there is nothing to check it against
    said: str  # what was found; where it failed, a sentence that names the file and the way out


@dataclass(frozen=True)
class Verification:
    """What was checked of a model's files, and what could not be."""

    name: str  # as it was asked for
    path: Path  # the file or folder
    card: Card | None  # None where the tensors make no model
    head: bool | None  # whether the model has its projection head
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Nothing failed; there may be checks that could not be made."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)


def verify(name: str | Path, network: str | None = None, head: bool | None = None) -> Verification:
    """Check again, in full, what `load` with the same words checks once, and what the model answers. Nothing is fetched or written.

    The sha256 of each file: of a name of the catalogue against its record, its original's against the catalogue; of a repository against
    what the hub says and what was recorded at first use. Then the tensors: each has its place, and is finite. Then its answers to one
    fixed picture, where they are stored: with the package, in exports, in pushed repositories.

    Args:
        name, network, head: as for `load`.

    Raises:
        UnknownModelError: no such name; DownloadError: it has to be downloaded first; WeightsError: no such path, or a damaged record.
    """
    found = find(name, network, head, locate, locate_repository)
    weights.check_exists(found.path)
    checks = _digests(str(name), found)
    model, opened = _open(str(name), found, head)
    checks += [opened, _answers(found.path, model)]
    return Verification(str(name), found.path, model.card if model else None, model.head is not None if model else None, tuple(checks))


def _digests(name: str, found: Found) -> list[Check]:
    if found.repository:
        return [_of_repository(found.repository, found.path / file) for file in FILES if (found.path / file).exists()]
    if found.entry and found.entry.embedded:
        expected, digest = found.entry.sha256[found.entry.embedded], sha256(found.path)
        said = f"{digest}, as in the catalogue" if digest == expected else not_as_shipped(found.path)
        return [Check("sha256", found.path.name, digest == expected, said)]
    record = read_record(found.path) if found.entry else None
    if found.entry and record:
        return [_of_cache(name, found.path, record), _of_original(found.entry, record)]
    files = (
        sorted(file for pattern in ("*.safetensors", "*.pth", "*.onnx") for file in found.path.glob(pattern) if file.name != ANSWERS)
        if found.path.is_dir()
        else [found.path]
    )
    return [_of_path(file) for file in files]


def _of_cache(name: str, path: Path, record: Record) -> Check:
    """A file of the cache against what was recorded when it came in."""
    digest = sha256(path)
    if digest == record.sha256:
        return Check("sha256", path.name, True, f"{digest}, as when it came into the cache")
    changed = "its tensor table is another too" if table_sha256(path) != record.table_sha256 else "its tensor table is the same"
    said = f"{path} has the sha256 {digest}, not {record.sha256} as when it came into the cache ({changed}); {_anew(name)}"
    return Check("sha256", path.name, False, said)


def _of_original(entry: Checkpoint, record: Record) -> Check:
    """The published file, which is gone since it was converted, against the catalogue, else against its first use."""
    file, digest = Path(record.url).name, record.original_sha256
    published, first = entry.sha256.get(file), remembered_digests(entry.name).get(file)
    expected, whence = (published, "in the catalogue") if published else (first, "at its first use")
    if expected and digest != expected:
        said = f"{file}, of which {entry.name} was made, had the sha256 {digest}, not {expected} as {whence}; {_anew(entry.name)}"
        return Check("original", file, False, said)
    if published:
        return Check("original", file, True, f"{digest}, as in the catalogue")
    return Check("original", file, None, f"{digest}, recorded at first use; the catalogue knows none")


def _of_repository(repository: str, file: Path) -> Check:
    """A file of a repository against what the hub says of it and against what was recorded at its first use."""
    digest, told = sha256(file), digest_of_hub(file)
    record = read_repository_record(repository, file) if file.suffix == ".safetensors" else None
    if told and not agrees_with_hub(file, digest, told):
        said = f"{file} has the sha256 {digest}, and is not the file that the hub calls {told}; {_anew(PREFIX + repository)}"
        return Check("sha256", file.name, False, said)
    if record and digest != record.sha256:
        said = f"{file} has the sha256 {digest}, not {record.sha256} as at its first use; {_anew(PREFIX + repository)}"
        return Check("sha256", file.name, False, said)
    agreed = [*(["as the hub says"] if told else []), *(["as recorded at first use"] if record else [])]
    unknown = "not recorded yet, and what the hub says of it is not known here"
    return Check("sha256", file.name, True if agreed else None, f"{digest}, {' and '.join(agreed) or unknown}")


def _of_path(file: Path) -> Check:
    """A file that came from anywhere; it may be one that the catalogue knows."""
    digest = sha256(file)
    known = [f"{entry.name}'s {original}" for entry in CATALOG for original, published in entry.sha256.items() if published == digest]
    if known:
        return Check("sha256", file.name, True, f"{digest}, {known[0]} in the catalogue")
    return Check("sha256", file.name, None, f"{digest}, with which there is nothing to compare")


def _open(name: str, found: Found, head: bool | None) -> tuple[Model | None, Check]:
    """The model, every tensor in its place and looked through for NaN and infinity."""
    try:
        model = open_found(replace(found, checked=False), name, head)
    except WeightsError as error:
        return None, Check("tensors", found.path.name, False, str(error))
    count, patterns = len(model.state_dict()), model.head.last_layer.weight_v.shape[0] if model.head else 0
    parts = model.card.arch + (f" and a head of {patterns} patterns" if patterns else "")
    return model, Check("tensors", found.path.name, True, f"{count} tensors, each with its place in a {parts}, all finite")


def _answers(path: Path, model: Model | None) -> Check:
    file = answers_beside(path)
    if not file.exists():
        return Check("answers", file.name, None, "none are stored with it, so what it answers cannot be compared")
    if model is None:
        return Check("answers", file.name, None, "nothing could be asked, for there is no model")
    try:
        apart = check_answers(model, file)
    except WeightsError as error:
        return Check("answers", file.name, False, str(error))
    return Check("answers", file.name, True, f"{apart:.1g} apart at most, of {TOLERANCE:g} allowed")


def _anew(name: str) -> str:
    return f"`ibot cache clear {name}`, then `ibot download {name}` fetches it anew."
