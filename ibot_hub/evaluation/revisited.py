"""How well landmarks are found in the revisited Oxford and Paris benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.devices import choose_devices, choose_dtype, placed
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.groundtruth import GroundTruth, Query
from ibot_hub.evaluation.options import RevisitedOptions
from ibot_hub.evaluation.precision import KS, Precision, rank_precision
from ibot_hub.evaluation.table import Table
from ibot_hub.evaluation.vectors import Seen, vectors
from ibot_hub.features.plan import weights_digest
from ibot_hub.listing import Entry
from ibot_hub.model import Model

SCALES = (1.0, 2**-0.5, 0.5)  # of the sides, at which an image is seen
# what is right and what is junk in each setting of the benchmark
SETTINGS = {"easy": (("easy",), ("junk", "hard")), "medium": (("easy", "hard"), ("junk",)), "hard": (("hard",), ("junk", "easy"))}


@dataclass(frozen=True, eq=False)
class RevisitedReport:
    """How early images of the landmark come, for each setting of the benchmark."""

    settings: dict[str, Precision]  # easy, medium, hard
    ks: tuple[int, ...]
    images: int  # N, of the gallery
    queries: int  # M

    @property
    def table(self) -> Table:
        """A row for each setting."""
        rows: list[tuple[str | float | int, ...]] = []
        for name, found in self.settings.items():
            rows.append((name, int((~found.ap.isnan()).sum()), self.images, found.mean_ap, *found.mean_at))
        columns = ("setting", "queries", "images", "mAP", *(f"mP@{k}" for k in self.ks))
        return Table("Revisited Oxford or Paris, [CLS] at three scales, per cent (Table 16)", columns, tuple(rows))


def measure_revisited(gallery: Tensor, queries: Tensor, truth: GroundTruth, ks: Sequence[int] = KS) -> RevisitedReport:
    """Vectors [N, F] of the gallery and [M, F] of the queries, in the order of the ground truth -> the report.

    Easy asks for what is seen well, medium for all, hard for what is seen badly; what is asked for in another setting is junk. A query
    without a right image in a setting does not count there.

    Raises:
        UsageError: other numbers of vectors than the ground truth has names, or vectors that are not finite.
    """
    if (len(gallery), len(queries)) != (len(truth.images), len(truth.queries)):
        raise UsageError(
            f"The ground truth has {len(truth.images)} images and {len(truth.queries)} queries; "
            f"these are {len(gallery)} and {len(queries)} vectors."
        )

    def measure(right: tuple[str, ...], junk: tuple[str, ...]) -> Precision:
        def masks(part: slice) -> tuple[Tensor, Tensor]:
            asked = truth.queries[part]
            return _mask(asked, right, len(gallery)), _mask(asked, junk, len(gallery))

        return rank_precision(gallery, queries, masks, ks)

    return RevisitedReport({name: measure(*kinds) for name, kinds in SETTINGS.items()}, tuple(ks), len(gallery), len(queries))


def evaluate_revisited(
    model: Model, truth: GroundTruth, folder: str | Path, cache: Path, options: RevisitedOptions | None = None, **changes: Any
) -> RevisitedReport:
    """See the images of a ground truth with the model, and measure how well its queries find them (Table 16).

    An image is shrunk until both sides are at most `size`, never enlarged, of a query its box alone; its vector is the mean of [CLS] at
    three scales, 1, 1 / sqrt(2) and 1 / 2 of the sides (bilinear), which are not cropped.

    Args:
        folder: holds NAME.jpg for each name of the ground truth.
        cache: where vectors are kept, so that a rerun goes on.
        options: size, precision, device; `changes` are fields of it by name.

    Raises:
        UsageError: an image that is not there; ImageError: one that cannot be read.
    """
    options = replace(options or RevisitedOptions(), **changes)
    check_images(truth, folder)
    gallery = [Seen(_entry(Path(folder), name)) for name in truth.images]
    asked = [Seen(_entry(Path(folder), query.name), query.box) for query in truth.queries]
    device = choose_devices(options.device)[0]
    dtype = choose_dtype(options.dtype, device)
    network = placed(model, device, dtype)
    facts = {"protocol": "revisited", "weights": weights_digest(model.backbone), "size": options.size, "dtype": str(dtype)}
    facts |= {"mean": str(network.transform.mean), "std": str(network.transform.std)}

    def described(pixels: Tensor) -> Tensor:
        return multi_scale(network, network.transform.normalise(pixels.to(device)))

    both = vectors([*gallery, *asked], lambda image: shrunk(image, options.size), described, cache, facts, options.workers)
    return measure_revisited(both[: len(gallery)], both[len(gallery) :], truth)


def check_images(truth: GroundTruth, folder: str | Path) -> None:
    """Raises UsageError unless the folder has an image for each name of the ground truth."""
    names = dict.fromkeys([*truth.images, *(query.name for query in truth.queries)])
    missing = [name for name in names if not (Path(folder) / f"{name}.jpg").is_file()]
    if missing:
        which = f"{Path(folder) / missing[0]}.jpg, which the ground truth names"
        raise UsageError(f"There is no {which}; {len(missing)} of {len(names)} images are missing from that folder.")


def shrunk(image: Image.Image, size: int) -> Tensor:
    """RGB -> uint8 [3, H, W], both sides at most `size` (Lanczos); a smaller image stays as it is."""
    image = image.copy()
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@torch.no_grad()
def multi_scale(model: Model, image: Tensor) -> Tensor:
    """Normalised [3, H, W] -> float32 [D], the mean of [CLS] over the three scales, of length 1."""
    seen = [
        image[None] if scale == 1 else F.interpolate(image[None], scale_factor=scale, mode="bilinear", align_corners=False)
        for scale in SCALES
    ]
    return F.normalize(torch.stack([model(tensor).cls[0].float() for tensor in seen]).mean(dim=0), dim=0)


def _mask(queries: Sequence[Query], kinds: tuple[str, ...], images: int) -> Tensor:
    """bool [m, images]: which are of these kinds for each query."""
    mask = torch.zeros(len(queries), images, dtype=torch.bool)
    for row, query in enumerate(queries):
        for kind in kinds:
            mask[row, list(getattr(query, kind))] = True
    return mask


def _entry(folder: Path, name: str) -> Entry:
    path = folder / f"{name}.jpg"
    return Entry(path.name, str(path.absolute()))
