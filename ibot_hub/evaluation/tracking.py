"""How well a model follows objects through clips, of which it is given the masks of the first frame."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ibot_hub.colours import distinct
from ibot_hub.devices import choose_devices, choose_dtype, placed
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.evaluation.clips import VOID, Labels, MaskedClip, objects_of, read_mask
from ibot_hub.evaluation.masks import contour_accuracy, region_similarity
from ibot_hub.evaluation.options import PropagationOptions
from ibot_hub.evaluation.propagation import carry_labels
from ibot_hub.evaluation.table import Table
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.writing import whole


@dataclass(frozen=True)
class TrackedObject:
    """One object of a clip: means over its frames."""

    clip: str
    number: int  # in the masks
    regions: float  # J, 0..1
    contours: float  # F, 0..1
    frames: int  # that were measured


@dataclass(frozen=True)
class TrackingReport:
    """How well objects were followed."""

    objects: tuple[TrackedObject, ...]

    @property
    def regions(self) -> float:
        """J in per cent, the mean over all objects."""
        return 100 * float(np.mean([found.regions for found in self.objects]))

    @property
    def contours(self) -> float:
        """F in per cent, the mean over all objects."""
        return 100 * float(np.mean([found.contours for found in self.objects]))

    @property
    def both(self) -> float:
        """J&F in per cent, the mean of the two."""
        return (self.regions + self.contours) / 2

    @property
    def table(self) -> Table:
        """A row for each clip, and one for all objects."""
        rows: list[tuple[str | float | int, ...]] = []
        for name in dict.fromkeys(found.clip for found in self.objects):
            part = TrackingReport(tuple(found for found in self.objects if found.clip == name))
            rows.append((name, len(part.objects), part.both, part.regions, part.contours))
        rows.append(("all", len(self.objects), self.both, self.regions, self.contours))
        title = "Objects followed through clips, per cent, mean over objects (Table 16)"
        return Table(title, ("clip", "objects", "J&F", "J", "F"), tuple(rows))


def evaluate_tracking(
    model: Model, clips: Sequence[MaskedClip], out: Path | None = None, options: PropagationOptions | None = None, **changes: Any
) -> TrackingReport:
    """Carry the first masks of clips on with the model, and compare with the other masks (Table 16).

    As in DAVIS, the first and the last frame of a clip are not measured, undecided pixels neither; objects are those of the first
    mask. Needs SciPy.

    Args:
        clips: what `read_clips` read.
        out: a folder for the masks that were found, NAME/00001.png, with a palette; None writes none.
        options: how masks are carried; `changes` are fields of it by name.

    Raises:
        UsageError: a clip without a mask to measure by, or without an object; ImageError: a frame or mask that cannot be read.
    """
    options = replace(options or PropagationOptions(), **changes)
    for clip in clips:
        if not _measured(clip):
            raise UsageError(f"Clip {clip.name} has no mask between its first and last frame, so nothing can be measured by.")
    device = choose_devices(options.device)[0]
    network = placed(model, device, choose_dtype(options.dtype, device))
    found: list[TrackedObject] = []
    total = sum(len(clip.frames) for clip in clips)
    with tqdm(total=total, unit="frame", desc="following", file=sys.stderr, disable=None) as bar:
        for clip in clips:
            found += _track(network, clip, None if out is None else out / clip.name, options, bar)
    return TrackingReport(tuple(found))


def _track(model: Model, clip: MaskedClip, out: Path | None, options: PropagationOptions, bar: "tqdm[Any]") -> list[TrackedObject]:
    first = read_mask(clip.masks[0], _decoded(clip.frames[0]).size)
    numbers = objects_of(first)
    if not numbers:
        raise UsageError(f"{clip.masks[0]} has no object: it holds 0, the background, and at most 255, which is no object.")
    measured = set(_measured(clip))
    scores: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}

    def frames() -> Iterator[Image.Image]:
        for path in clip.frames:
            yield _decoded(path)
            bar.update()

    for index, labels in enumerate(carry_labels(model, frames(), first, options), start=1):
        if out is not None:
            write_labels(labels, out / f"{clip.frames[index].stem}.png")
        if index in measured:
            true = read_mask(clip.masks[index], (labels.shape[1], labels.shape[0]))
            known = true != VOID
            for number, values in scores.items():
                one, other = (labels == number) & known, true == number
                values.append((region_similarity(one, other), contour_accuracy(one, other)))
    found = []
    for number, values in scores.items():
        regions, contours = np.mean(values, axis=0).tolist()
        found.append(TrackedObject(clip.name, number, regions, contours, len(measured)))
    return found


def write_labels(labels: Labels, path: Path) -> None:
    """A palette PNG, whole or not at all. Raises StoreError where it cannot be written."""
    image = Image.fromarray(labels)
    image.putpalette([level for colour in ((0, 0, 0), *distinct(int(labels.max()))) for level in colour])
    with whole(path) as partial:
        image.save(partial, format="PNG")


def _measured(clip: MaskedClip) -> list[int]:
    """The frames that are compared with masks."""
    return [index for index in clip.masks if 0 < index < len(clip.frames) - 1]


def _decoded(path: Path) -> Image.Image:
    try:
        return decode(path)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
