"""How often a linear head is right on images that are changed in several ways."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.class_folders import ClassFolders, read_classes
from ibot_hub.evaluation.images import ImageBatch, Network, image_batches
from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.features.columns import image_vector

Way = TypeVar("Way", bound=Hashable)


@dataclass(frozen=True)
class Accuracies(Generic[Way]):
    """Top-1 of one head, for each way in which images were changed."""

    top1: dict[Way, float]  # per cent
    images: int  # that could be read
    left_out: int  # that could not


def check_known(head: LinearHead, folders: ClassFolders) -> None:
    """Raises UsageError for images of a class that the head does not know."""
    unknown = [name for name in folders.images if name not in head.classes]
    if unknown:
        raise UsageError(f"Class {unknown[0]!r} of {folders.source} is none of the {len(head.classes)} that the head knows.")


def accuracies(
    network: Network, head: LinearHead, source: str | Path, changed: Callable[[ImageBatch], Iterator[tuple[Way, Tensor]]], doing: str
) -> Accuracies[Way]:
    """One pass over class folders; `changed` gives the images of a batch in each way, [B, 3, height, width].

    Raises:
        UsageError: a head of another model or preparation, features instead of images, or an image in a class that the head does not
        know; SourceError: no images.
    """
    head.check(network.weights, asdict(network.transform))
    place = {name: index for index, name in enumerate(head.classes)}
    check_known(head, read_classes(source))
    right: Counter[Way] = Counter()
    images = 0
    for batch in image_batches(source, network, doing):
        truth = torch.tensor([place[name] for name in batch.classes], device=network.device)
        with torch.inference_mode():
            for way, pixels in changed(batch):
                tokens = network.backbone.last_layers(pixels, head.manifest.layers)
                logits = head.logits(image_vector(tokens, head.manifest.pool))  # [B, C]
                right[way] += int((logits.argmax(dim=1) == truth).sum())
        images += len(truth)
    return Accuracies({way: 100 * count / images for way, count in right.items()}, images, batch.of - images)
