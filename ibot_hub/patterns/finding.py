"""What patterns a model finds in images: an atlas of a whole source, or the composition of one image."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from ibot_hub.attention import attention_maps
from ibot_hub.backbones import Backbone
from ibot_hub.devices import choose_devices, choose_dtype, own_cores, placed
from ibot_hub.errors import SourceError, UsageError, WeightsError
from ibot_hub.features.extraction import AHEAD
from ibot_hub.features.pipeline import Batch, Prepared, batches
from ibot_hub.fit import Fit
from ibot_hub.head import Head
from ibot_hub.images import ImageLike, ImageTransform, as_images
from ibot_hub.listing import Entry, Listing, write_listing
from ibot_hub.model import Model
from ibot_hub.options import PatternOptions
from ibot_hub.patterns.assignment import Assigner, assigner, head_digest
from ibot_hub.patterns.atlas import AtlasFacts, PatternAtlas
from ibot_hub.patterns.atlas_table import atlas_table
from ibot_hub.patterns.layouts import carry_pictures
from ibot_hub.patterns.ranking import MEMBER, Members, Ranking
from ibot_hub.sources import named, shown
from ibot_hub.versions import versions

CENTRE_IMAGES = 256  # whose mean logits are the centre, spread evenly over the source
FAILURES = 20  # that an atlas names
ENTRIES = 1024  # of the listing, in memory at a time

Work = Iterator[tuple[int, int, Sequence[Entry]]]


def find_patterns(
    model: Model, source: str | Path, options: PatternOptions | None = None, *, stdin: BinaryIO | None = None, **changes: Any
) -> PatternAtlas:
    """Give every patch of every image to the pattern that the head finds most likely, and keep the best of each (Fig. 4, 13, 14, 17).

    One pass over the images; memory is bounded by patterns x members, whatever their number. A pattern takes one patch of an
    image (`per_image`), the most confident; of equals the earlier image is kept, then the patch further up, then left. By
    default the raw logit decides and ranks, as in the official implementation. With confidence="probability" it is
    softmax((logit - centre) / temperature); the centre is the mean logit over up to 256 images spread over the source, which
    are read twice.

    Args:
        model: with its head: `ibot_hub.load(name, head=True)`; a copy is moved to the device and precision of the options.
        source: as `ibot_hub.extract` takes it.
        options: how; `changes` are fields of it by name: find_patterns(model, "photos", members=9).
        stdin: what "-" reads; default standard input.

    Raises:
        WeightsError: no head, or logits that are not finite; SourceError: no image, or none that can be read.
    """
    options = replace(options or PatternOptions(), **changes)
    head = _needed_head(model)
    device = choose_devices(options.device)[0]
    dtype = choose_dtype(options.dtype, device)
    own = model.transform
    transform = replace(own, size=options.size or own.size, resize=options.resize or own.resize)
    walk = _Walk(placed(model.backbone, device, dtype), transform, options, device)
    assign = assigner(placed(head, device, dtype), options.of)
    with TemporaryDirectory(prefix="ibot-patterns-") as folder:
        given = stdin or (sys.stdin.buffer if sys.stdin else None)
        listing = write_listing(source, Path(folder) / "listing.parquet", stdin=given)
        count = min(listing.count, options.limit or listing.count)
        if options.confidence == "probability":
            centre = _centre(walk, assign, listing, count)
            assign = replace(assign, centre=centre, temperature=options.temperature)
        ranking, failures = _rank(walk, assign, listing, count)
        if len(failures) == count:
            raise SourceError(f"No image in {named(str(source))} can be read; the first, {failures[0].path}: {failures[0].failure}.")
        facts = AtlasFacts(
            model=model.card.name, arch=model.card.arch, network=model.card.network, head=head_digest(head, options.of),
            of=options.of, confidence=options.confidence,
            temperature=options.temperature if assign.centre is not None else None,
            members=options.members, per_image=options.per_image,
            images=count - len(failures), failed=len(failures), failures=[(f.path, f.failure) for f in failures[:FAILURES]],
            source=shown(str(source)), listing=listing.digest, preprocessing=_preprocessing(transform),
            dtype=str(dtype).removeprefix("torch."), versions=versions(),
        )  # fmt: skip
        atlas = PatternAtlas(facts, atlas_table(ranking, listing, assign.centre))
    return carry_pictures(atlas, options.pictures, options.picture_size) if options.pictures else atlas


@dataclass(frozen=True)
class Part:
    """One patch of a composition."""

    row: int
    column: int
    pattern: int
    attention: float  # of [CLS], the mean of the attention heads; of a Swin the cosine with the image's vector
    confidence: float  # as in the atlas


@dataclass(frozen=True, eq=False)
class Composition:
    """The patches that stand for an image, the one with most attention first, each of another pattern."""

    parts: Sequence[Part]
    fit: Fit  # where the patches lie in the image as given
    of: str  # what `attention` is, in words


def compose(model: Model, image: ImageLike, atlas: PatternAtlas, count: int = 4) -> Composition:
    """The `count` patches with most attention of [CLS] and different patterns (Fig. 15); fewer where an image has fewer patterns.

    The image is prepared as those of the atlas were. A Swin has no [CLS]: its patches are ranked by their cosine with the
    image's vector instead, and `of` says so.

    Raises:
        WeightsError: no head; UsageError: the atlas is of another head, or of whole images; ImageError: the image cannot be read.
    """
    head = _needed_head(model)
    check_head(atlas, model)
    if atlas.facts.of != "patches":
        raise UsageError("A composition is made of patches, and this atlas holds whole images; find one with --of patches.")
    (picture,) = as_images(image)
    maps = attention_maps(model, picture, transform=atlas.transform)
    attention = maps.weights.mean(dim=0).flatten()
    centre = None if atlas.centre is None else torch.from_numpy(atlas.centre.copy())
    assigned = assigner(head, "patches", centre, atlas.facts.temperature or 1.0)(model(picture, transform=atlas.transform).patches)
    patterns, confidences = assigned.patterns.flatten().tolist(), assigned.confidences.flatten().tolist()
    first: dict[int, int] = {}  # pattern -> the patch that has most attention
    for patch in attention.argsort(descending=True, stable=True).tolist():
        first.setdefault(patterns[patch], patch)
    parts = [
        Part(*divmod(patch, maps.fit.columns), pattern, float(attention[patch]), confidences[patch])
        for pattern, patch in list(first.items())[:count]
    ]
    return Composition(parts, maps.fit, maps.of)


def check_head(atlas: PatternAtlas, model: Model) -> None:
    """Raises UsageError unless the patterns of the atlas are those of the model, which must have its head."""
    if head_digest(_needed_head(model), atlas.facts.of) != atlas.facts.head:
        found = f"{atlas.facts.model} ({atlas.facts.arch}, {atlas.facts.network or 'network not stated'})"
        raise UsageError(
            f"The atlas was found with the head of {found}, and pattern numbers of one head mean nothing to another's; "
            f"take that model, or find an atlas with {model.card.name} ({model.card.in_words()})."
        )


def _needed_head(model: Model) -> Head:
    if model.head is None:
        raise WeightsError(
            f"{model.card.name} has no projection head here, and it is the head that knows patterns: load it with head=True; "
            "a full checkpoint has the head (checkpoint.pth beside the official ones), one of a backbone alone has none."
        )
    return model.head


@dataclass(frozen=True, eq=False)
class _Walk:
    """How a backbone goes through images."""

    backbone: Backbone
    transform: ImageTransform
    options: PatternOptions
    device: torch.device

    def batches(self, work: Work) -> Iterator[Batch]:
        workers = self.options.workers or own_cores()
        return batches(work, self.transform, workers, AHEAD, overlap=self.device.type != "cpu")

    def tokens(self, images: Sequence[Prepared]) -> Iterator[tuple[list[Prepared], Tensor]]:
        """Images that have pixels, those of one shape together, and their tokens [b, H, W, D]; of [CLS] [b, 1, 1, D]."""
        readable = [image for image in images if image.pixels is not None]
        for shape in dict.fromkeys(image.pixels.shape for image in readable if image.pixels is not None):
            alike = [image for image in readable if image.pixels is not None and image.pixels.shape == shape]
            stacked = torch.stack([image.pixels for image in alike if image.pixels is not None])
            with torch.inference_mode():
                pixels = self.transform.normalise(stacked.to(self.device)).to(next(self.backbone.parameters()).dtype)
                answer = self.backbone(pixels)
            yield alike, answer.patches if self.options.of == "patches" else answer.cls[:, None, None]


def _centre(walk: _Walk, assign: Assigner, listing: Listing, count: int) -> Tensor:
    """The mean logits [K] over the tokens of images spread evenly over the source, each run alone: no batch size has a part in it."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, CENTRE_IMAGES)).round().astype(int)).tolist()
    work = ((0, row, listing.entries(row, row + 1)) for row in chosen)
    total, number = torch.zeros(assign.rows.shape[1], dtype=torch.float64, device=assign.rows.device), 0
    with tqdm(total=len(chosen), unit="img", desc="centre of the logits", file=sys.stderr, disable=None) as bar:
        for batch in walk.batches(work):
            for _, tokens in walk.tokens(batch.images):
                with torch.inference_mode():
                    bottleneck = assign.head.bottleneck(tokens.flatten(0, -2))
                    total += bottleneck.double().sum(dim=0)
                    number += len(bottleneck)
            bar.update()
    return assign.mean_logits(total / max(number, 1))


def _rank(walk: _Walk, assign: Assigner, listing: Listing, count: int) -> tuple[Ranking, list[Prepared]]:
    """The one pass: what is kept of each pattern, and the images that could not be read."""
    options = walk.options
    size = options.batch_size or (8 if walk.device.type == "cpu" else 128)
    ranking = Ranking(len(assign.rows), options.members * (2 if options.of == "patches" else 1), options.per_image)
    failures: list[Prepared] = []
    precision = str(assign.rows.dtype).removeprefix("torch.")
    with tqdm(total=count, unit="img", desc=f"finding patterns in {precision}", file=sys.stderr, disable=None) as bar:
        for batch in walk.batches(_work(listing, count, size)):
            failures += [image for image in batch.images if image.failure]
            for images, tokens in walk.tokens(batch.images):
                assigned = assign(tokens)  # [b, H, W] each
                confidences = assigned.confidences.cpu().numpy()
                if not np.isfinite(confidences).all():
                    advice = "its weights or its mean and std are wrong" if precision == "float32" else "--dtype float32 may help"
                    raise WeightsError(f"The head gives logits that are not finite in {precision}: {advice}.")
                ranking.add(assigned.patterns.flatten().cpu().numpy(), _members(images, confidences, whole=options.of == "cls"))
            bar.update(len(batch.images))
    return ranking, failures


def _work(listing: Listing, count: int, size: int) -> Work:
    for start in range(0, count, ENTRIES):
        entries = listing.entries(start, min(start + ENTRIES, count))
        for first in range(0, len(entries), size):
            yield 0, start + first, entries[first : first + size]


def _members(images: Sequence[Prepared], confidences: npt.NDArray[np.float32], *, whole: bool) -> Members:
    """Confidences [b, H, W] of some images -> [b * H * W] MEMBER."""
    members = np.empty(confidences.shape, MEMBER)
    members["confidence"] = confidences
    for name, values in (("image", "row"), ("width", "width"), ("height", "height")):
        members[name] = np.array([getattr(image, values) for image in images])[:, None, None]
    members["row"], members["column"] = (-1, -1) if whole else np.indices(confidences.shape)[1:]
    return members.reshape(-1)


def _preprocessing(transform: ImageTransform) -> dict[str, Any]:
    return {
        "size": transform.size, "resize": transform.resize, "patch": transform.patch,
        "mean": list(transform.mean), "std": list(transform.std),
    }  # fmt: skip
