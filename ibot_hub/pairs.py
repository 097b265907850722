"""A name, a file or a folder -> student and teacher with their heads, and their centres: what training can start from."""

from dataclasses import dataclass
from pathlib import Path

from ibot_hub.catalog import info, list_models
from ibot_hub.errors import WeightsError
from ibot_hub.formats.full import Centres, networks, read_centres
from ibot_hub.hub.both import fetch_both
from ibot_hub.loading import load
from ibot_hub.model import Model


@dataclass(frozen=True, eq=False)
class Pair:
    """Two networks with their heads, in float32 on the CPU; the same one twice where there is no other."""

    student: Model
    teacher: Model
    centres: Centres | None


def load_pair(name: str | Path) -> Pair:
    """Both networks of what `ibot_hub.load` opens under that name, checked as it does, and the centres where there are any.

    Of a name of the catalogue the full checkpoint is fetched, once.

    Raises:
        UnknownModelError, DownloadError, WeightsError: as `ibot_hub.load`; also where there is no projection head.
    """
    entry = info(name) if isinstance(name, str) and name in list_models() else None
    if entry and entry.full_file:
        full = fetch_both(entry)
        return _pair(name, load(full.student, "student", True), load(full.teacher, "teacher", True), full.read_centres())
    path = Path(name)
    held = networks(path) if entry is None and path.exists() else ()
    models = [load(path, network, True) for network in held] or [load(name, head=True)]  # the teacher first
    return _pair(name, models[-1], models[0], read_centres(path) if held else None)


def _pair(name: str | Path, student: Model, teacher: Model, centres: Centres | None) -> Pair:
    head = teacher.head
    layers = (head.last_layer, head.patch_layer) if head else ()
    for centre, layer in zip(centres or (), layers, strict=False):
        if len(centre) != len(layer.weight_g):
            raise WeightsError(f"{name}: a centre is of {len(centre)} patterns, its head has {len(layer.weight_g)}; fetch it again.")
    return Pair(student, teacher, centres)
