"""How well distorted copies of photographs find their originals, as on Copydays."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.devices import choose_devices, choose_dtype, placed
from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.options import CopyOptions
from ibot_hub.evaluation.precision import rank_precision
from ibot_hub.evaluation.table import Table
from ibot_hub.evaluation.vectors import Seen, vectors
from ibot_hub.features.plan import weights_digest
from ibot_hub.listing import Entry
from ibot_hub.model import Model
from ibot_hub.sources import kind_of, named, rows_of
from ibot_hub.tokens import Tokens

ORIGINAL = "original"  # the folder of the originals
DIGITS = 4  # of a name: which photograph it is, so that 200003.jpg is a copy of 200000.jpg
POWER = 4  # of the generalised mean over patches
SMALLEST = 1e-6  # that enters it
WHITENING = 0.5  # the power of the variances that components are divided by


@dataclass(frozen=True)
class CopySet:
    """Originals, and copies of them distorted in several ways."""

    originals: tuple[Entry, ...]
    copies: Mapping[str, tuple[Entry, ...]]  # block, such as "strong" or "jpegqual/10" -> its images


@dataclass(frozen=True, eq=False)
class Whitening:
    """Directions in which features vary, scaled so that they vary in all of them alike."""

    mean: Tensor  # [F]
    projection: Tensor  # [F, components]

    def __call__(self, features: Tensor) -> Tensor:
        """[N, F] of any length -> [N, components]."""
        whitened: Tensor = (F.normalize(features.float(), dim=1) - self.mean) @ self.projection
        return whitened


@dataclass(frozen=True)
class CopyReport:
    """How early originals come, for each block of copies."""

    blocks: tuple[str, ...]
    mean_ap: tuple[float, ...]  # per cent
    queries: tuple[int, ...]
    images: int  # originals and distractors
    depth: int

    @property
    def table(self) -> Table:
        """A row for each block."""
        rows = tuple(
            (block, count, self.images, value) for block, count, value in zip(self.blocks, self.queries, self.mean_ap, strict=True)
        )
        title = f"Copy detection, [CLS] and GeM of patches, per cent, among the first {self.depth}"
        return Table(title, ("block", "copies", "images", "mAP"), rows)


def read_copies(folder: str | Path) -> CopySet:
    """A folder in the layout of Copydays: `original/200000.jpg`, its copies in others (`strong`, `jpegqual/10`, `crops/50`, ...).

    Names that share their first four digits are of one photograph; each folder of copies is a block of its own.

    Raises:
        SourceError: no such folder; UsageError: no originals, no copies, two originals of one number, a copy without an original.
    """
    root = Path(folder)
    if kind_of(str(folder)) != "folder":
        raise SourceError(f"{folder} is no folder; copies are looked for in one that holds {ORIGINAL} and other folders.")
    blocks: dict[str, list[Entry]] = {}
    for entry in _entries(root):
        blocks.setdefault(entry.name.rpartition("/")[0], []).append(entry)
    originals = blocks.pop(ORIGINAL, [])
    blocks.pop("", None)  # beside the folders: of no block
    if not originals or not blocks:
        raise UsageError(
            f"{folder} holds {len(originals)} images in {ORIGINAL} and {len(blocks)} other folders of images; both are needed."
        )
    known: dict[str, Entry] = {}
    for entry in originals:
        if number_of(entry) in known:
            raise UsageError(f"{entry.name} and {known[number_of(entry)].name} share their first {DIGITS} digits: which is the original?")
        known[number_of(entry)] = entry
    lost = [entry for entries in blocks.values() for entry in entries if number_of(entry) not in known]
    if lost:
        raise UsageError(f"No image in {ORIGINAL} begins with the digits of {lost[0].name}; {len(lost)} copies have no original.")
    return CopySet(tuple(originals), {name: tuple(entries) for name, entries in blocks.items()})


def number_of(entry: Entry) -> str:
    """Which photograph an image is of: the first digits of its name. Raises UsageError where it does not begin with four."""
    digits = Path(entry.name).name[:DIGITS]
    if len(digits) < DIGITS or not digits.isdecimal():
        raise UsageError(f"{entry.shown} does not begin with {DIGITS} digits, which say which photograph it is of.")
    return digits


def copy_vectors(tokens: Tokens) -> Tensor:
    """[CLS] and the generalised mean of the patches, its power 4, of values of at least 1e-6: [B, 2 D] in float32."""
    pooled = tokens.patches.float().clamp(min=SMALLEST).pow(POWER).mean(dim=(1, 2)).pow(1 / POWER)
    return torch.cat([tokens.cls.float(), pooled], dim=1)


def find_whitening(features: Tensor) -> Whitening:
    """The principal components of features [N, F], once of length 1, divided by the root of their variance.

    Kept are those that N images can tell: at most N - 1, and none without variance. Raises UsageError for fewer than two images.
    """
    if len(features) < 2:
        raise UsageError(f"Whitening is learnt from at least two images; this is {len(features)}.")
    rows = F.normalize(features.double(), dim=1)
    mean = rows.mean(dim=0)
    variances, directions = torch.linalg.eigh(rows.T.cov(correction=0))  # rising
    if variances[-1] < 1e-12:  # of vectors of length 1: nothing but rounding
        raise UsageError("Whitening is learnt from images that differ; these all have one vector.")
    if len(features) <= features.shape[1]:
        few = f"whitening is learnt from {len(features)} images, no more than the {features.shape[1]} numbers of a vector"
        print(f"{few}: it will distort more than it helps; take some thousands", file=sys.stderr)
    kept = min(len(features) - 1, int((variances > 1e-9 * variances[-1]).sum()))
    chosen = slice(len(variances) - kept, None)
    return Whitening(mean.float(), (directions[:, chosen] * variances[chosen] ** -WHITENING).float())


def measure_copies(
    gallery: Tensor, numbers: Sequence[str | None], copies: Mapping[str, tuple[Tensor, Sequence[str]]], depth: int = CopyOptions.depth
) -> CopyReport:
    """Let the copies of each block rank the gallery.

    Args:
        gallery: [N, F], originals and distractors.
        numbers: which photograph each is; None of a distractor.
        copies: block -> vectors [M, F] and the photograph that each is a copy of.
        depth: an original beyond so many answers counts as not found.
    """
    place: dict[str | None, int] = {}
    for number in numbers:
        place.setdefault(number, -1 if number is None else len(place))
    columns = torch.tensor([place[number] for number in numbers])
    means, counts = [], []
    for block, (queries, truth) in copies.items():
        lost = [number for number in truth if place.get(number, -1) < 0]
        if lost:
            raise UsageError(f"The gallery has no image of photograph {lost[0]}, which {block} holds a copy of.")
        asked = torch.tensor([place[number] for number in truth])

        def masks(part: slice, asked: Tensor = asked) -> tuple[Tensor, Tensor]:
            right = asked[part][:, None] == columns
            return right, torch.zeros_like(right)

        means.append(rank_precision(gallery, queries, masks, depth=depth).mean_ap)
        counts.append(len(queries))
    return CopyReport(tuple(copies), tuple(means), tuple(counts), len(numbers), depth)


def evaluate_copies(
    model: Model,
    images: CopySet,
    cache: Path,
    *,
    distractors: str | Path | None = None,
    whitening: str | Path | None = None,
    options: CopyOptions | None = None,
    **changes: Any,
) -> CopyReport:
    """See originals and copies with the model, squashed to a square (bicubic), and measure how well copies find their originals.

    Args:
        images: what `read_copies` read.
        cache: where vectors are kept, so that a rerun goes on.
        distractors: a source of other images that join the originals.
        whitening: a source of images, best others, that the components of all vectors are learnt from.
        options: size, depth, precision, device; `changes` are fields of it by name.

    Raises:
        ImageError: an image that cannot be read; UsageError: a whitening of less than two images.
    """
    options = replace(options or CopyOptions(), **changes)
    device = choose_devices(options.device)[0]
    dtype = choose_dtype(options.dtype, device)
    network = placed(model, device, dtype)
    transform = replace(network.transform, size=options.size, resize="squash")
    facts = {"protocol": "copy", "weights": weights_digest(model.backbone), "images": asdict(transform), "dtype": str(dtype)}

    @torch.no_grad()
    def described(pixels: Tensor) -> Tensor:
        return copy_vectors(network(transform.normalise(pixels.to(device))[None]))[0]

    def of(entries: Sequence[Entry]) -> Tensor:
        return vectors([Seen(entry) for entry in entries], transform.pixels, described, cache, facts, options.workers)

    others = _entries(distractors) if distractors is not None else []
    whiten = find_whitening(of(_entries(whitening))) if whitening is not None else (lambda features: features)
    numbers = [*map(number_of, images.originals), *[None] * len(others)]
    copies = {block: (whiten(of(entries)), [number_of(entry) for entry in entries]) for block, entries in images.copies.items()}
    return measure_copies(whiten(of([*images.originals, *others])), numbers, copies, options.depth)


def _entries(source: str | Path) -> list[Entry]:
    """The images of a source in order. Raises SourceError where there are none."""
    rows = rows_of(kind_of(str(source)), str(source), None)
    entries = [Entry(os.fsdecode(name), os.fsdecode(location), offset, size) for name, location, offset, size in rows]
    if not entries:
        raise SourceError(f"No image found in {named(str(source))}.")
    return entries
