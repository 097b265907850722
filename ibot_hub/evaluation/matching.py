"""How many patches of one view of an image find their place in another view of it, counted as the official script counts."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ibot_hub.correspondence import Matches, PartnerMap, partner_map, strongest
from ibot_hub.errors import ImageError, SourceError
from ibot_hub.fit import Fit
from ibot_hub.images import ImageLike, ImageTransform, decode
from ibot_hub.listing import Entry, write_listing
from ibot_hub.model import Model
from ibot_hub.options import MatchOptions, ViewsOptions
from ibot_hub.two_views import Views, two_views

LISTED = 1000  # images whose names are in memory at a time


@dataclass(frozen=True, eq=False)
class Overlap:
    """Which patches of the first view the second one shows too, and whether their partners are right."""

    shown: npt.NDArray[np.bool_]  # [H, W]
    places: npt.NDArray[np.int64]  # [H, W, 2], the nearest patch (row, column) of the second view, for patches not shown too
    right: npt.NDArray[np.bool_]  # [H, W], whether the partner is that patch; for patches not shown too

    chance: float | None  # 0..1, of a partner drawn blindly being right; None where no patch is shown

    @property
    def patches(self) -> int:
        """How many patches are measured."""
        return int(self.shown.sum())

    @property
    def share(self) -> float | None:
        """Right partners among the patches of the overlap, 0..1; None where there is none."""
        return float(self.right[self.shown].mean()) if self.shown.any() else None


@dataclass(frozen=True, eq=False)
class ViewMatches:
    """The strongest pairs of the overlap of two views, and how many of all its pairs are right."""

    views: Views
    matches: Matches  # in pixels of the views
    right: npt.NDArray[np.bool_]  # [n], of the matches
    overlap: Overlap


@dataclass(frozen=True)
class ViewsReport:
    """The share of right partners over the overlaps of pairs of views."""

    share: float  # 0..1, mean over the images of each one's own
    shares: tuple[float, ...]  # of each image that was measured, in the order of the source
    patches: int  # in all overlaps
    chance: float  # 0..1, of a partner drawn blindly being right
    apart: int  # images whose views do not overlap
    failed: tuple[tuple[str, str], ...]  # name and reason of each image that could not be read


def measure_overlap(partners: PartnerMap, views: Views, radius: int = ViewsOptions.radius) -> Overlap:
    """Partners across two views beside the truth (official correspondence script, instance pairs).

    A patch of the first view counts if its centre, with half a patch of an uncropped view on each side, lies within the
    bounds of the second view's centres, in the image. Its true partner is the patch of the second view with the nearest
    centre; a partner is right if row and column differ from that one's by at most `radius` (official: 0).
    """
    first = views.first.in_image(partners.first.centres())  # [H, W, 2]
    second = views.second.in_image(partners.second.centres())  # [h, w, 2]
    half = 0.5 * np.array([views.width / partners.first.columns, views.height / partners.first.rows])  # 8 / 224 of the image
    shown = ((first - half >= second.min(axis=(0, 1))) & (first + half <= second.max(axis=(0, 1)))).all(axis=-1)
    # centres form a grid along the image's axes, flipped or not: the nearest is nearest by row and by column
    rows = np.abs(first[..., 1, None] - second[:, 0, 1]).argmin(axis=-1)  # [H, W]
    columns = np.abs(first[..., 0, None] - second[0, :, 0]).argmin(axis=-1)
    places = np.stack([rows, columns], axis=-1)
    right = (np.abs(partners.partners - places) <= radius).all(axis=-1)
    return Overlap(shown, places, right, _chance(places[shown], partners.second, radius))


def _chance(places: npt.NDArray[np.int64], fit: Fit, radius: int) -> float | None:
    """The share of all patches that lies within `radius` of a place, mean over the places [n, 2]; None where there is none."""
    if not len(places):
        return None
    rows, columns = (np.abs(places[:, axis, None] - np.arange(count)) <= radius for axis, count in enumerate((fit.rows, fit.columns)))
    return float((rows.mean(axis=1) * columns.mean(axis=1)).mean())


def match_views(
    model: Model, image: ImageLike, seed: int | Sequence[int] = ViewsOptions.seed, options: MatchOptions | None = None
) -> ViewMatches:
    """Two views of `image`, matched; only patches of the overlap are ranked, as in Fig. 19 (top).

    Args:
        image: a path, a PIL image or uint8 [height, width, 3].
        seed: of the views.
        options: as in `ibot_hub.match`; `size` is the side of a view, default the model's own. `resize` has no part in it.
    """
    options = options or MatchOptions()
    transform = view_transform(model, options.size)
    views = two_views(image, seed, side_of(transform))
    partners = partner_map(model, views.first.image, views.second.image, similarity=options.similarity, transform=transform)
    overlap = measure_overlap(partners, views)
    among = overlap.shown & partners.mutual if options.mutual else overlap.shown
    matches = strongest(model, views.first.image, partners, options.count, rank=options.rank, transform=transform, among=among)
    rows, columns = matches.first_patches.T
    return ViewMatches(views, matches, overlap.right[rows, columns], overlap)


def view_transform(model: Model, size: int | None) -> ImageTransform:
    """How views are prepared: they have the side that the network sees, so nothing is resized again."""
    return replace(model.transform, size=size or model.transform.size, resize="squash")


def side_of(transform: ImageTransform) -> int:
    """The side of what comes out of a transform that squashes, pixels."""
    return transform.fit(1, 1).out[0]


def evaluate_views(model: Model, source: str | Path, options: ViewsOptions | None = None, **changes: Any) -> ViewsReport:
    """The share of right partners across two views of each image of `source`, with a progress line on a terminal.

    Args:
        source: an image, a folder, a text file of paths or .tar shards.
        options: seed, size, ...; `changes` are fields of it by name. The views of an image hang on the seed and on its number.

    Raises:
        SourceError: no images, or none that could be measured.
    """
    options = replace(options or ViewsOptions(), **changes)
    transform = view_transform(model, options.size)
    shares: list[float] = []
    chances: list[float] = []
    failed: list[tuple[str, str]] = []
    patches = apart = 0
    for index, entry in enumerate(_entries(source, options.limit)):
        try:
            views = two_views(decode(entry.read()), (options.seed, index), side_of(transform))
        except ImageError as error:
            failed.append((entry.shown, str(error)))
            continue
        partners = partner_map(model, views.first.image, views.second.image, similarity=options.similarity, transform=transform)
        overlap = measure_overlap(partners, views, options.radius)
        if overlap.share is None or overlap.chance is None:
            apart += 1
            continue
        shares.append(overlap.share)
        chances.append(overlap.chance)
        patches += overlap.patches
    if not shares:
        broken = f", the first of them {failed[0][0]}: {failed[0][1]}" if failed else ""
        raise SourceError(f"No image of {source} could be measured: of {apart} the views do not overlap, {len(failed)} are broken{broken}.")
    return ViewsReport(float(np.mean(shares)), tuple(shares), patches, float(np.mean(chances)), apart, tuple(failed))


def _entries(source: str | Path, limit: int | None) -> Iterator[Entry]:
    """The images of the source one by one, with a progress line."""
    with tempfile.TemporaryDirectory() as folder:
        listing = write_listing(source, Path(folder) / "listing.parquet")
        count = min(listing.count, limit or listing.count)
        with tqdm(total=count, unit="img", desc="matching", file=sys.stderr, disable=None) as bar:
            for start in range(0, count, LISTED):
                for entry in listing.entries(start, min(start + LISTED, count)):
                    yield entry
                    bar.update()
