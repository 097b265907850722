"""How precise ranked answers are, counted as in the revisited Oxford and Paris benchmark: mAP and mP@k."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import UsageError

KS = (1, 5, 10)
SIMILARITIES = 2**22  # in memory at a time: queries times images; all that is made of them takes about 300 MB

Truth = Callable[[slice], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Precision:
    """How early the right images come."""

    ap: Tensor  # float64 [M], 0..1, average precision of each query; nan where no image is right
    at: Tensor  # float64 [M, ks], 0..1, precision at each k; nan likewise

    @property
    def mean_ap(self) -> float:
        """mAP in per cent, over the queries that have a right image; nan where none has."""
        return 100 * float(self.ap.nanmean())

    @property
    def mean_at(self) -> tuple[float, ...]:
        """mP@k in per cent for each k, over the same queries."""
        return tuple((100 * self.at.nanmean(dim=0)).tolist())


@torch.no_grad()
def rank_precision(gallery: Tensor, queries: Tensor, truth: Truth, ks: Sequence[int] = KS, depth: int | None = None) -> Precision:
    """Rank the gallery by its cosine with each query, and measure how precise the ranks are.

    Of images that are equally near the earlier one comes first. Junk is taken out of the ranks, neither right nor wrong.

    Args:
        gallery: features [N, F] of any length, type and device; that device computes.
        queries: features [M, F].
        truth: what is right and what is junk, bool [m, N] each, for a slice of the queries; what is both is junk.
        ks: numbers of answers whose precision is measured.
        depth: right images beyond so many answers count as not found; default: all answers count.

    Raises:
        UsageError: features that are not finite, or whose lengths differ.
    """
    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise UsageError(
            f"Features must be rows of one length; these are {list(gallery.shape)} of the gallery, {list(queries.shape)} of the queries."
        )
    rows, asked = _unit(gallery, "gallery"), _unit(queries.to(gallery.device), "queries")
    aps, ats = [], []
    step = max(1, SIMILARITIES // max(1, len(rows)))
    for start in range(0, len(asked), step):
        part = slice(start, min(start + step, len(asked)))
        order = (asked[part] @ rows.T).argsort(dim=1, descending=True, stable=True)  # [m, N]
        right, junk = (mask.to(order.device).gather(1, order) for mask in truth(part))
        ap, at = average_precision(right, junk, ks, depth)
        aps.append(ap.cpu())
        ats.append(at.cpu())
    return Precision(torch.cat(aps), torch.cat(ats))


def average_precision(right: Tensor, junk: Tensor, ks: Sequence[int] = KS, depth: int | None = None) -> tuple[Tensor, Tensor]:
    """Answers in their order, bool [m, N] each -> average precision [m] and precision at `ks` [m, ks], float64 in 0..1.

    Average precision is the area under precision over recall, by trapezoids; a query's k is at most the place of its last right
    answer, so that one with few right images can have a precision of 1. Both are nan for a query without a right image.
    """
    right = right & ~junk
    place = (~junk).cumsum(dim=1)  # of each answer, from 1 on, without the junk before it
    found = right.cumsum(dim=1).double()
    total = right.sum(dim=1).double()
    after = found / place.clamp(min=1)
    before = torch.where(place > 1, (found - 1) / (place - 1).clamp(min=1), 1.0)
    counted = right if depth is None else right & (place <= depth)
    ap = torch.where(counted, (before + after) / 2, 0.0).sum(dim=1) / total  # 0 / 0 is nan
    last = torch.where(right, place, 0).amax(dim=1)
    at = []
    for k in ks:
        bound = last.clamp(max=k)
        at.append((right & (place <= bound[:, None])).sum(dim=1) / bound.double())
    return ap, torch.stack(at, dim=1)


def _unit(features: Tensor, name: str) -> Tensor:
    """Rows of length 1 in float32."""
    broken = (~features.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise UsageError(f"Feature {int(broken[0, 0])} of the {name} is not finite: the weights or the precision are wrong.")
    return F.normalize(features.float(), dim=1)
