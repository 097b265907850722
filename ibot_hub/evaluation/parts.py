"""Part-wise linear probing: classes told from the few patches that [CLS] attends to most, or least."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibot_hub.attention import last_block, needs_cls
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.class_folders import check_classes
from ibot_hub.evaluation.images import image_batches, network_of
from ibot_hub.evaluation.linear import linear
from ibot_hub.evaluation.options import SweepOptions
from ibot_hub.evaluation.table import Table
from ibot_hub.model import Model

COUNTS = (1, 7, 14, 56, 112, 196)  # patches that are averaged, of
OF = 196


@dataclass(frozen=True, eq=False)
class PartMeans:
    """What each image's patches are on average, for several numbers of them."""

    counts: tuple[int, ...]  # K, ascending
    patches: int  # of an image
    top: Tensor  # float32 [K, N, D] on the CPU: the mean of so many patches with most attention
    bottom: Tensor  # with least
    classes: tuple[str, ...]  # N, of the images
    left_out: int  # images that could not be read


@dataclass(frozen=True)
class PartsReport:
    """How well a linear classifier tells classes from so many patches, top-1 in per cent of the validation images."""

    counts: tuple[int, ...]  # patches that are averaged
    patches: int  # of an image
    top: tuple[float, ...]  # those with most attention
    bottom: tuple[float, ...]  # with least
    top_rates: tuple[float, ...]  # the learning rate that was chosen for each
    bottom_rates: tuple[float, ...]
    images: int  # of training
    queries: int  # of validation

    @property
    def table(self) -> Table:
        """A row for each number of patches."""
        title = f"part-wise linear probing (Fig. 5): top-1 in per cent of {self.queries} validation images, by the mean of k patches"
        return Table(title, ("k", "most attention", "least attention"), tuple(zip(self.counts, self.top, self.bottom, strict=True)))


def scaled_counts(patches: int) -> tuple[int, ...]:
    """The paper's numbers of patches, in proportion where an image has other than 196."""
    return tuple(sorted({max(1, round(count * patches / OF)) for count in COUNTS}))


def means_by_attention(attention: Tensor, patches: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Means of the k patches with most and with least attention, [K, B, D] each; of equals the earlier patch has more.

    Args:
        attention: [B, H, W].
        patches: [B, H, W, D].
        counts: K numbers of patches, each from 1 to H * W.
    """
    order = attention.flatten(1).argsort(dim=1, descending=True, stable=True)  # [B, N]
    ranked = patches.float().flatten(1, 2).gather(1, order[..., None].expand(-1, -1, patches.shape[-1]))  # [B, N, D]
    numbers = torch.tensor(counts, device=patches.device)
    sums = (rows.cumsum(dim=1)[:, numbers - 1] for rows in (ranked, ranked.flip(1)))  # [B, K, D]
    top, bottom = ((one / numbers[:, None]).transpose(0, 1) for one in sums)
    return top, bottom


def part_means(model: Model, source: str | Path, options: SweepOptions | None = None) -> PartMeans:
    """All means of every image of class folders, in one pass over them; they stay in memory, 8 * K * D bytes an image.

    Attention is that of the last block, the mean of its heads, and the patches are those after it without the final norm (paper,
    appendix C). Images that cannot be read are left out.

    Raises:
        UsageError: a Swin, which has no [CLS], or features instead of images; SourceError: no images.
    """
    options = options or SweepOptions()
    needs_cls(model.backbone)
    network = network_of(model, options)
    fit = network.transform.fit(1, 1)
    counts = scaled_counts(fit.rows * fit.columns)
    tops: list[Tensor] = []
    bottoms: list[Tensor] = []
    classes: list[str] = []
    for batch in image_batches(source, network, f"patches of {Path(source).name}"):
        with torch.inference_mode():
            attention, patches = last_block(network.backbone, batch.images)
            top, bottom = means_by_attention(attention.mean(dim=1), patches, counts)
        tops.append(top.cpu())
        bottoms.append(bottom.cpu())
        classes += batch.classes
    means = torch.cat(tops, dim=1), torch.cat(bottoms, dim=1)
    return PartMeans(counts, fit.rows * fit.columns, *means, tuple(classes), batch.of - len(classes))


def parts(train: PartMeans, val: PartMeans, options: SweepOptions | None = None, **changes: Any) -> PartsReport:
    """Linear probing of each mean (Fig. 5), each with a learning rate of its own; the mean of all patches is probed once.

    Raises:
        UsageError: means of different numbers of patches, or a class of `val` that `train` has not; and as `linear`.
    """
    options = replace(options or SweepOptions(), **changes)
    if (train.counts, train.patches) != (val.counts, val.patches):
        raise UsageError(f"The training images have {train.patches} patches and those of validation {val.patches}; they must be alike.")
    place = {name: index for index, name in enumerate(sorted(set(train.classes)))}
    check_classes(place, sorted(set(val.classes)), "the training side", "the validation side")
    labels, truth = (torch.tensor([place[name] for name in side.classes]) for side in (train, val))
    found = []
    for index, count in enumerate(train.counts):
        top = linear(train.top[index], labels, val.top[index], truth, options)
        whole = count == train.patches
        found.append((top, top if whole else linear(train.bottom[index], labels, val.bottom[index], truth, options)))
    tops, bottoms = zip(*found, strict=True)
    return PartsReport(
        train.counts, train.patches, tuple(one.top1 for one in tops), tuple(one.top1 for one in bottoms),
        tuple(one.rate for one in tops), tuple(one.rate for one in bottoms), len(labels), len(truth),
    )  # fmt: skip
