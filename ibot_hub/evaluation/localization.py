"""How well boxes round what [CLS] attends to agree with given ones: CorLoc."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ibot_hub.attention import ATTENTION, AttentionMaps, attention_maps, strongest
from ibot_hub.devices import choose_devices, choose_dtype, placed
from ibot_hub.errors import ImageError, SourceError, UsageError
from ibot_hub.evaluation.boxes import Box, overlap
from ibot_hub.evaluation.extra import needed
from ibot_hub.evaluation.options import LocalizationOptions
from ibot_hub.evaluation.table import Table
from ibot_hub.fit import Fit
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.sources import kind_of


@dataclass(frozen=True, eq=False)
class LocalizationReport:
    """How many images have a right box, for each map that boxes are made of."""

    maps: tuple[str, ...]  # "mean", "head 0", ...; of a Swin its cosine map alone
    of: str  # what the maps hold, in words
    overlaps: npt.NDArray[np.float64]  # [maps, n], with the given box that the found one overlaps most
    found: tuple[tuple[Box, ...], ...]  # [n][maps]
    paths: tuple[str, ...]  # [n], of the images that were measured
    failed: tuple[tuple[str, str], ...]  # name and reason of each image that could not be read, or that a box reaches out of
    share: float  # from which overlap on a box is right

    @property
    def corloc(self) -> tuple[float, ...]:
        """Images with a right box, in per cent, for each of `maps`."""
        return tuple((100 * (self.overlaps >= self.share).mean(axis=1)).tolist())

    @property
    def best(self) -> int:
        """The map with the most right boxes, of equals that of more overlap; the given boxes chose it, so its number flatters."""
        return max(range(len(self.maps)), key=lambda place: (self.corloc[place], self.overlaps[place].mean()))

    @property
    def table(self) -> Table:
        """A row for each map."""
        rows = tuple(
            (name, len(self.paths), value, 100 * float(mean), "best" if place == self.best and len(self.maps) > 1 else "")
            for place, (name, value, mean) in enumerate(zip(self.maps, self.corloc, self.overlaps.mean(axis=1), strict=True))
        )
        return Table(f"CorLoc by {self.of}, per cent (Fig. 6 as a number)", ("map", "images", "CorLoc", "mean IoU", ""), rows)


def evaluate_localization(
    model: Model, folder: str | Path, given: Mapping[str, Sequence[Box]], options: LocalizationOptions | None = None, **changes: Any
) -> LocalizationReport:
    """Draw a box round the strongest patches of each map, and compare it with the given ones of the image.

    The maps are those of the attention heads and their mean; a Swin has no [CLS], and its one map is the cosine of each patch with the
    image's vector. An image is right if the box overlaps any of its given ones by `overlap` of their union. Needs SciPy.

    Args:
        folder: holds the images.
        given: path below it -> boxes, as `read_boxes` reads them.
        options: mass, size, ...; `changes` are fields of it by name.

    Raises:
        UsageError: an image that is not there, a layer that the model does not have;
        SourceError: no folder, or no image that can be measured.
    """
    options = replace(options or LocalizationOptions(), **changes)
    check_images(folder, given)
    device = choose_devices(options.device)[0]
    network = placed(model, device, choose_dtype(options.dtype, device))
    transform = replace(model.transform, size=options.size, resize=options.resize)
    found: dict[str, tuple[Box, ...]] = {}
    failed: list[tuple[str, str]] = []
    maps: AttentionMaps | None = None
    for path in tqdm(given, unit="img", desc="localizing", file=sys.stderr, disable=None):
        try:
            image = decode(Path(folder) / path)
            _check_inside(given[path], *image.size)
            maps = attention_maps(network, image, options.layer, transform=transform)
        except ImageError as error:
            failed.append((path, str(error)))
            continue
        found[path] = tuple(box_of(values, maps.fit, options.mass) for values in _values(maps))
    if maps is None:
        raise SourceError(f"None of the {len(failed)} images can be measured; the first is {failed[0][0]}: {failed[0][1]}.")
    names = ("mean", *(f"head {head}" for head in range(len(maps.weights)))) if maps.of == ATTENTION else ("cosine",)
    overlaps = np.array([[max(overlap(box, true) for true in given[path]) for box in boxes] for path, boxes in found.items()])
    return LocalizationReport(names, maps.of, overlaps.T, tuple(found.values()), tuple(found), tuple(failed), options.overlap)


def check_images(folder: str | Path, given: Iterable[str]) -> None:
    """Raises SourceError where `folder` is none, UsageError where an image that has boxes is not in it."""
    if kind_of(str(folder)) != "folder":
        raise SourceError(f"{folder} is no folder; give the one that the paths of the boxes begin in.")
    paths = list(given)
    missing = [path for path in paths if not (Path(folder) / path).is_file()]
    if missing:
        lost = f"{len(missing)} of {len(paths)} images are missing"
        raise UsageError(
            f"There is no {Path(folder) / missing[0]}, which has boxes; {lost}. Paths of boxes begin in the folder of the images."
        )


def _check_inside(boxes: Sequence[Box], width: int, height: int) -> None:
    """Raises ImageError for a box that reaches out of its image by more than a pixel, which rounding explains."""
    for box in boxes:
        if min(box.left, box.top) < -1 or box.right > width + 1 or box.bottom > height + 1:
            reach = f"({box.left:g}, {box.top:g}) to ({box.right:g}, {box.bottom:g})"
            raise ImageError(f"its box from {reach} reaches out of its {width} x {height} pixels")


def box_of(weights: npt.NDArray[np.float64], fit: Fit, mass: float) -> Box:
    """The box of the largest of the pieces that the strongest patches form, in pixels of the image as given.

    Patches belong to one piece that touch by a side; of equally large pieces the first in reading order is taken. Weights [H, W]
    below 0, which only a Swin's map has, count as 0.
    """
    pieces, _ = needed("scipy.ndimage").label(strongest(weights.clip(min=0), mass))
    sizes = np.bincount(pieces.ravel())[1:]
    rows, columns = np.nonzero(pieces == 1 + sizes.argmax())
    left, top, _, _ = fit.box(int(rows.min()), int(columns.min()))
    _, _, right, bottom = fit.box(int(rows.max()), int(columns.max()))
    return Box(max(0.0, left), max(0.0, top), min(float(fit.width), right), min(float(fit.height), bottom))


def _values(maps: AttentionMaps) -> list[npt.NDArray[np.float64]]:
    """The mean of the heads, then each; of a Swin its one map."""
    weights = maps.weights.double().numpy()
    return [weights.mean(axis=0), *weights] if maps.of == ATTENTION else list(weights)
