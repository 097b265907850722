"""Rates of extraction, of its two halves, and of what users of timm and of transformers write: images a second, one process each."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from PIL import Image

import ibot_hub
from ibot_hub.devices import own_cores, placed
from ibot_hub.features.columns import image_features
from ibot_hub.features.extraction import AHEAD
from ibot_hub.features.pipeline import batches
from ibot_hub.features.plan import transform_of
from ibot_hub.features.store import Manifest
from ibot_hub.images import decode
from ibot_hub.listing import write_listing
from ibot_hub.options import ExtractOptions

TIMM_NAMES = {"vit_s16": "vit_small_patch16_224", "vit_b16": "vit_base_patch16_224"}
WIDTHS = {"vit_s16": (384, 6), "vit_b16": (768, 12)}  # and attention heads


@dataclass(frozen=True)
class Task:
    """What one process measures."""

    model: str
    checkpoint: Path
    photos: Path
    images: int  # of our extraction and of decoding
    few: int  # of the slow measurements: rates are per image
    options: ExtractOptions

    def paths(self) -> list[str]:
        return sorted(map(str, self.photos.iterdir()))[: self.few]


def forward_only(task: Task) -> float:
    """The network alone, on batches of the extraction's size that are ready in memory."""
    model, manifest = _warm(task)
    transform, dtype = transform_of(manifest), getattr(torch, manifest.dtype)
    backbone = placed(model.backbone, torch.device("cpu"), dtype)
    images = torch.stack([transform(decode(path)) for path in task.paths()[: 4 * manifest.batch_size]]).to(dtype)
    ready = images.split(manifest.batch_size)
    rounds = max(1, task.few // len(images))
    with torch.inference_mode():
        image_features(backbone, ready[0], manifest)
        started = time.perf_counter()
        for batch in ready * rounds:
            image_features(backbone, batch, manifest)
        return rounds * len(images) / (time.perf_counter() - started)


def decode_only(task: Task) -> float:
    """Reading, decoding and fitting as the extraction does it, with nothing behind."""
    manifest = _warm(task)[1]
    with TemporaryDirectory() as folder:
        entries = write_listing(task.photos, Path(folder) / "listing.parquet").entries(0, task.images)
    size = manifest.batch_size
    work = ((0, first, entries[first : first + size]) for first in range(0, len(entries), size))
    started = time.perf_counter()
    done = batches(work, transform_of(manifest), own_cores(), AHEAD, overlap=True)
    count = sum(len(batch.images) for batch in done)
    return count / (time.perf_counter() - started)


def ours(task: Task) -> float:
    """`ibot_hub.extract` from the call to the last byte: listing, hashing the weights, and writing are in it."""
    model, _ = _warm(task)
    with TemporaryDirectory() as out:
        started = time.perf_counter()
        done = ibot_hub.extract(model, task.photos, out, task.options)
        return (done.images - done.failed) / (time.perf_counter() - started)


def _warm(task: Task) -> tuple[ibot_hub.Model, Manifest]:
    """The model, after its first batches, and the manifest of such an extraction."""
    model = ibot_hub.load(task.checkpoint)
    with TemporaryDirectory() as out:
        return model, ibot_hub.extract(model, task.photos, out, replace(task.options, limit=16)).manifest


class Photos(torch.utils.data.Dataset[torch.Tensor]):
    """Files, as everyone writes it."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def timm_loop(task: Task) -> float:
    """The loop that a user of timm writes."""
    model = timm.create_model(TIMM_NAMES[task.model], num_classes=0).eval()
    config = timm.data.resolve_model_data_config(model)
    photos = Photos(task.paths(), timm.data.create_transform(**config, is_training=False))
    with torch.inference_mode():
        model(torch.stack([photos[index] for index in range(min(32, len(photos)))]))
        started = time.perf_counter()
        loader = torch.utils.data.DataLoader(photos, batch_size=32, num_workers=2)
        features = torch.cat([model(batch) for batch in loader])
        return len(features) / (time.perf_counter() - started)


def transformers_pipeline(task: Task) -> float:
    """What the documentation of transformers offers for the same task; its tensors are kept as tensors, which is its fastest way."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel, pipeline  # here, for the others do not need it

    dim, heads = WIDTHS[task.model]
    model: Any = ViTModel(ViTConfig(hidden_size=dim, num_attention_heads=heads, intermediate_size=4 * dim))
    processor: Any = ViTImageProcessor()
    extractor = pipeline("image-feature-extraction", model=model.eval(), image_processor=processor, batch_size=16, device="cpu")
    extractor(task.paths()[:16], return_tensors=True)
    started = time.perf_counter()
    features = extractor(task.paths(), return_tensors=True)
    return len(features) / (time.perf_counter() - started)


MEASURES = {"forward": forward_only, "ours": ours, "decode": decode_only, "timm": timm_loop, "transformers": transformers_pipeline}
