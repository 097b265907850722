"""A full checkpoint of the catalogue -> both of its networks and its centres in the cache, from one download."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch

from ibot_hub.catalog import Checkpoint
from ibot_hub.formats.full import Centres, read_centres
from ibot_hub.hub.files import cached_file, check_digest, convert, keep, locked, published, told
from ibot_hub.hub.places import model_folder
from ibot_hub.hub.record import check_unchanged, read_record

CENTRES = "centres.safetensors"  # beside the networks; empty where the checkpoint has no centres


@dataclass(frozen=True)
class Both:
    """Files of the cache that were made of one full checkpoint, each network with its head."""

    student: Path
    teacher: Path
    centres: Path

    def read_centres(self) -> Centres | None:
        """The centres of [CLS] and of the patches, where the checkpoint has them."""
        kept = safetensors.torch.load_file(self.centres)
        return (kept["cls"], kept["patches"]) if kept else None


def fetch_both(checkpoint: Checkpoint) -> Both:
    """Student and teacher with their heads, and the centres, of a model whose full checkpoint is published; it is downloaded once.

    Raises:
        DownloadError, WeightsError: as `fetch`, or one of the networks is not there.
    """
    with told(checkpoint):
        found = _cached_both(checkpoint)
        if found:
            return found
        with locked(checkpoint):
            found = _cached_both(checkpoint)
            if found:
                return found
            file, centres = checkpoint.full_file or "", model_folder(checkpoint.name) / CENTRES
            with published(checkpoint, file, True) as (original, url):
                student, teacher = (convert(checkpoint, original, url, file, network, True) for network in ("student", "teacher"))
                kept = dict(zip(("cls", "patches"), read_centres(original) or (), strict=False))
                keep(centres, partial(safetensors.torch.save_file, kept), url, *check_digest(checkpoint, original, file))
            return Both(student, teacher, centres)


def _cached_both(checkpoint: Checkpoint) -> Both | None:
    student, teacher = (cached_file(checkpoint, network=network, head=True) for network in ("student", "teacher"))
    centres = model_folder(checkpoint.name) / CENTRES
    record = read_record(centres)
    if student is None or teacher is None or record is None or not centres.exists():
        return None
    check_unchanged(centres, record)
    return Both(student, teacher, centres)
