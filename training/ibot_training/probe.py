"""What the teacher has learned so far, seen on images that it is trained on."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from ibot_hub.attention import cls_attention
from ibot_hub.backbones import Backbone
from ibot_hub.errors import ImageError
from ibot_hub.evaluation.knn import knn
from ibot_hub.images import ImageTransform
from ibot_hub.swin import Swin
from ibot_training.data import Images, Numbers
from ibot_training.pictures import picture
from ibot_training.resident import Resident

MOST = 10_000  # images; every other one is a query
NEIGHBOURS = 20
AT_ONCE = 125
GLIMPSED = 6  # crops of a picture


@torch.no_grad()
def neighbours(backbone: Backbone, images: Images | Resident, transform: ImageTransform, device: torch.device) -> dict[str, float]:
    """Top-1 of weighted k-NN in per cent, by name; empty where there are no classes, or no two images of one to compare.

    Evenly spaced images, unchanged by augmentation; queries of a class that the index lacks are left out, for nothing could name it.
    It shows how a run goes; what a model is worth is measured on other images.
    """
    if images.labels is None:
        return {}
    chosen = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).astype(np.int64))
    features, labels = [], []
    for start in range(0, len(chosen), AT_ONCE):
        pairs = list(_read(images, transform, chosen[start : start + AT_ONCE]))
        if pairs:
            pixels = torch.stack([pixels for pixels, _ in pairs]).to(device)
            features.append(backbone(transform.normalise(pixels)).cls)
            labels += [label for _, label in pairs]
    classes = torch.tensor(labels, dtype=torch.int64)
    known = torch.isin(classes[1::2], classes[::2])
    if not known.any():
        return {}
    vectors = torch.cat(features)
    queries = vectors[1::2][known.to(device)]
    report = knn(vectors[::2], classes[::2], queries, classes[1::2][known], ks=[min(NEIGHBOURS, len(vectors[::2]))])
    return {f"knn{report.ks[0]}": report.top1[0]}


@torch.no_grad()
def glimpse(backbone: Backbone, crops: Tensor, masks: Tensor) -> Image:
    """A few crops of a batch with their masks and, of a ViT, what [CLS] attends to in its last block; arguments as a `Batch` has them."""
    chosen = torch.argsort(masks.flatten(1).any(1).int(), descending=True, stable=True)[:GLIMPSED]  # the masked ones first
    shown = crops[chosen.to(crops.device)]
    attention = None if isinstance(backbone, Swin) else cls_attention(backbone, shown, [-1])[0]
    return picture(shown, masks[chosen], attention)


def _read(images: Images | Resident, transform: ImageTransform, numbers: Numbers) -> Iterator[tuple[Tensor, int]]:
    """uint8 [3, S, S] and class of each image that can be read."""
    assert images.labels is not None
    for number in numbers:
        try:
            yield transform.pixels(images.load(int(number))), int(images.labels[number])
        except ImageError:
            continue  # the batches name it
