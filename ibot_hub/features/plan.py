"""Model, source and options -> the manifest of an extraction and the listing it walks through."""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock
from PIL import Image

from ibot_hub.backbones import Backbone
from ibot_hub.devices import choose_dtype
from ibot_hub.errors import StoreError, UsageError
from ibot_hub.features import store
from ibot_hub.features.shards import Shapes
from ibot_hub.features.store import Manifest
from ibot_hub.images import ImageTransform
from ibot_hub.listing import Listing, open_listing, write_listing
from ibot_hub.model import Model
from ibot_hub.options import ExtractOptions
from ibot_hub.versions import versions

LISTING = "listing.parquet"
STDIN_LISTING = ".listing.stdin.partial"  # compared with the earlier one, then removed


def plan_extraction(
    model: Model, source: str, folder: Path, options: ExtractOptions, device: torch.device, stdin: BinaryIO | None
) -> tuple[Manifest, Listing]:
    """The manifest and listing of this run, or of the earlier one that it goes on with; several processes may plan at once.

    The listing of an earlier run stands: images that came into a folder since are not seen.

    Raises:
        SourceError: no images; StoreError: `folder` was made otherwise (each difference is named).
    """
    source = source if source == "-" else os.path.abspath(source)  # noqa: PTH100  Path.absolute keeps ".."
    with FileLock(folder / ".plan.lock"):
        begun = (folder / store.MANIFEST).exists() and not options.overwrite
        earlier = store.read_manifest(folder) if begun else None
        if earlier is None or source == "-":
            # the paths on standard input can only be compared with the earlier ones when they are read again
            given = stdin or (sys.stdin.buffer if sys.stdin else None)
            listing = write_listing(source, folder / (STDIN_LISTING if earlier else LISTING), stdin=given)
        elif earlier.source != source:
            raise StoreError(
                f"{folder} was made with source={earlier.source}, now source={source}; use another --out, or --overwrite to start again."
            )
        elif (folder / LISTING).exists():
            listing = open_listing(folder / LISTING)
        else:
            listing = write_listing(source, folder / LISTING)
        if options.overwrite:  # only now: a source that cannot be listed costs nothing
            store.clear(folder, but=LISTING)
        manifest = _manifest(model, source, listing, options, device, earlier)
        store.save_manifest(folder, manifest, anew=options.overwrite)
        (folder / STDIN_LISTING).unlink(missing_ok=True)
    return manifest, open_listing(folder / LISTING)


def transform_of(manifest: Manifest) -> ImageTransform:
    """How the images of an extraction are prepared."""
    facts = dict(manifest.preprocessing)
    return ImageTransform(facts["size"], facts["resize"], facts["patch"], tuple(facts["mean"]), tuple(facts["std"]))


def weights_digest(backbone: Backbone) -> str:
    """sha256 of names, shapes, types and values of all tensors: the same whatever container they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_options(model: Model, options: ExtractOptions) -> None:
    """Raises UsageError for options that contradict each other or ask for what the model does not have."""
    if options.layers > model.depth:
        raise UsageError(f"layers is {options.layers}; this model has {model.depth} blocks.")
    if options.tokens == "patches" and options.pool != "cls":
        raise UsageError(f"pool={options.pool} makes the one vector of an image, which tokens=patches leaves out; say tokens=both.")
    if options.tokens == "cls" and options.pool == "mean" and options.layers > 1:
        raise UsageError("pool=mean is of the last block alone; leave layers out, or say pool=cls+mean.")
    if options.tokens != "cls" and len(set(model.widths[-options.layers :])) > 1:
        raise UsageError(f"the last {options.layers} blocks of this Swin have maps of different sizes; keep the patches of fewer layers.")


def _manifest(
    model: Model, source: str, listing: Listing, options: ExtractOptions, device: torch.device, earlier: Manifest | None
) -> Manifest:
    """What this run writes; where an option leaves the choice open, an earlier run's choice is kept."""
    transform = replace(
        model.transform,
        size=options.size or model.transform.size,
        resize=options.resize or model.transform.resize,
        mean=options.mean or model.transform.mean,
        std=options.std or model.transform.std,
    )
    dtype = str(choose_dtype(options.dtype, device)).removeprefix("torch.")
    batch_size = options.batch_size or (earlier.batch_size if earlier else 8 if device.type == "cpu" else 128)
    shard_size = options.shard_size or (earlier.shard_size if earlier else 1000 if options.tokens == "cls" else 100)
    return Manifest(
        model=model.card.name,
        arch=model.card.arch,
        network=model.card.network,
        weights=weights_digest(model.backbone),
        source=source,
        images=min(listing.count, options.limit or listing.count),
        listing=listing.digest,
        preprocessing={
            "size": transform.size, "resize": transform.resize, "patch": transform.patch,
            "mean": list(transform.mean), "std": list(transform.std),
        },
        tokens=options.tokens,
        layers=options.layers,
        pool=options.pool,
        dtype=earlier.dtype if earlier and options.dtype == "auto" else dtype,
        batch_size=batch_size,
        format=options.format,
        shard_size=shard_size,
        device=device.type,
        columns=_columns(model, transform, options),
        versions=versions(),
    )  # fmt: skip


def _columns(model: Model, transform: ImageTransform, options: ExtractOptions) -> Shapes:
    """The shape of one row of each column; None for maps that differ from image to image."""
    widths = model.widths[-options.layers :]
    vectors = {"cls": sum(widths), "mean": widths[-1], "cls+mean": sum(widths) + widths[-1]}
    columns: dict[str, list[int] | None] = {}
    if options.tokens != "patches":
        columns["feature"] = [vectors[options.pool]]
    if options.tokens != "cls":
        # cropped or squashed, every image comes out in one size, so any image tells it
        side = transform.pixels(Image.new("RGB", (64, 64))).shape[1] // transform.patch
        columns["patches"] = None if transform.resize == "keep" else [side, side, sum(widths)]
    return columns
