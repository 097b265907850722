"""Images of class folders as normalised batches, with the class of each."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from tqdm import tqdm

from ibot_hub.backbones import Backbone
from ibot_hub.devices import choose_devices, choose_dtype, own_cores, placed
from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.class_folders import class_folder
from ibot_hub.evaluation.labelled import told_left_out
from ibot_hub.features.extraction import AHEAD
from ibot_hub.features.pipeline import batches
from ibot_hub.features.plan import weights_digest
from ibot_hub.features.store import MANIFEST
from ibot_hub.images import ImageTransform
from ibot_hub.listing import Entry, Listing, write_listing
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions

ENTRIES = 1024  # of the listing, in memory at a time


@dataclass(frozen=True, eq=False)
class Network:
    """A backbone where and as precise as it computes, and how its images are prepared."""

    backbone: Backbone
    weights: str  # the digest of the model's own, before they were cast
    transform: ImageTransform
    device: torch.device
    batch_size: int  # images a forward pass
    workers: int  # threads that decode

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, height, width] -> what the backbone takes, on its device in its precision."""
        return self.transform.normalise(pixels.to(self.device)).to(next(self.backbone.parameters()).dtype)


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images that could be read, in the order of the source."""

    of: int  # images of the source, readable or not
    rows: tuple[int, ...]  # their numbers in the source, from 0
    classes: tuple[str, ...]
    images: Tensor  # [B, 3, height, width], normalised, on the network's device in its precision


def network_of(model: Model, options: EvaluationOptions) -> Network:
    """The network that `options` ask for. Raises UsageError for a device that is not here, or images that would differ in shape."""
    resize = options.resize or model.transform.resize
    if resize == "keep":
        raise UsageError("All images must come out in one shape here; say --resize crop or squash.")
    device = choose_devices(options.device)[0]
    transform = replace(model.transform, size=options.size or model.transform.size, resize=resize)
    backbone = placed(model.backbone, device, choose_dtype(options.dtype, device))
    batch_size = options.batch_size or (8 if device.type == "cpu" else 128)
    return Network(backbone, weights_digest(model.backbone), transform, device, batch_size, options.workers or own_cores())


def image_batches(source: str | Path, network: Network, doing: str) -> Iterator[ImageBatch]:
    """All images of `source` in one pass, with a progress line that says `doing`; those that cannot be read are counted on standard error.

    Raises:
        UsageError: features instead of images, or an image in no class folder; SourceError: no images, or none that can be read.
    """
    if (Path(source) / MANIFEST).exists():
        raise UsageError(f"{source} holds features, and the images themselves are needed; give the folder of class folders.")
    failed: list[str] = []
    with TemporaryDirectory(prefix="ibot-eval-") as folder:
        listing = write_listing(source, Path(folder) / "listing.parquet")
        with tqdm(total=listing.count, unit="img", desc=doing, file=sys.stderr, disable=None) as bar:
            work = _work(listing, network.batch_size)
            for batch in batches(work, network.transform, network.workers, AHEAD, overlap=network.device.type != "cpu"):
                readable = [image for image in batch.images if image.pixels is not None]
                failed += [image.path for image in batch.images if image.pixels is None]
                if readable:
                    pixels = torch.stack([image.pixels for image in readable if image.pixels is not None])
                    classes = tuple(class_folder(image.path, source) for image in readable)
                    yield ImageBatch(listing.count, tuple(image.row for image in readable), classes, network.normalised(pixels))
                bar.update(len(batch.images))
    if len(failed) == listing.count:
        raise SourceError(f"No image of {source} can be read.")
    told_left_out(str(source), failed)


def _work(listing: Listing, size: int) -> Iterator[tuple[int, int, list[Entry]]]:
    for start in range(0, listing.count, ENTRIES):
        entries = listing.entries(start, start + ENTRIES)
        for first in range(0, len(entries), size):
            yield 0, start + first, entries[first : first + size]
