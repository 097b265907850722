"""A name, a file or a folder -> a model ready to use."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ibot_hub import weights
from ibot_hub.backbones import arch_name, build_backbone, build_head, check_entry
from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, info, list_models
from ibot_hub.devices import DTYPES
from ibot_hub.errors import UsageError
from ibot_hub.hub.files import fetch
from ibot_hub.hub.record import read_record
from ibot_hub.hub.repositories import PREFIX, fetch_repository, split_name
from ibot_hub.images import ImageTransform
from ibot_hub.model import Card, Model
from ibot_hub.swin import NATIVE_SIZE, Swin

NETWORKS = ("teacher", "student")


def load(
    name: str | Path,
    network: str | None = None,
    head: bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> Model:
    """The model of that name, in eval mode, with every weight checked.

    Args:
        name: a name of the catalogue (`list_models`), a file, a folder, or "hf-hub:org/name" (a revision behind an @).
            A name of the catalogue goes before a file of the same name; write "./vit_s16" or Path("vit_s16") for the file.
        network: "teacher", "student", or None: what the catalogue says, else the teacher; `model.card.network` shows it.
        head: True: fetch what holds the projection head; False: the backbone alone; None: take it where the file at hand has it.
        device: default the CPU.
        dtype: "float32" (default), "bfloat16", "float16" or torch's own.

    Raises:
        UnknownModelError: no such name; DownloadError: it cannot be fetched; WeightsError: it is not what it should be.
    """
    return open_found(find(name, network, head), str(name), head, device, dtype)


@dataclass(frozen=True)
class Found:
    """Where a name leads."""

    path: Path
    network: str | None  # to be read from that path
    entry: Checkpoint | None = None
    repository: str | None = None  # whose commit the path is, in Hugging Face's cache
    checked: bool = False  # hashed, and looked through when it entered the cache or the package
    verified: bool | None = None


def find(
    name: str | Path,
    network: str | None,
    head: bool | None,
    get: Callable[..., Path] = fetch,
    get_repository: Callable[[str, str | None], Path] = fetch_repository,
) -> Found:
    """What `load` opens for these words; `get` and `get_repository` make a file or folder of a name, and raise what they may."""
    if network not in (None, *NETWORKS):
        raise UsageError(f"There is no network {network!r}; say teacher or student.")
    if isinstance(name, Path):
        return Found(name, network)
    if name.startswith(PREFIX):
        repository, revision = split_name(name)
        return Found(get_repository(repository, revision), network, repository=repository)
    # what has a slash can only be a path, also where nothing is there
    if name not in list_models() and (os.sep in name or Path(name).exists()):
        return Found(Path(name), network)
    entry = info(name)
    if (entry.repository or entry.embedded) and network not in (None, entry.network):
        alone = f"the {entry.network} alone" if entry.network else "one network, and not said which"
        raise UsageError(f"{name} is published as {alone}; leave `network` out.")
    path = get(entry, network=network, head=head)
    if entry.repository:
        return Found(path, None, entry, entry.repository)
    if entry.embedded:
        return Found(path, network, entry, checked=True, verified=True)
    record = read_record(path)
    return Found(path, network, entry, checked=True, verified=record.verified if record else None)


def open_found(
    found: Found, name: str, head: bool | None, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> Model:
    """The model that lies where `name` leads; raises WeightsError and UsageError as `load` does."""
    tensors = weights.read(found.path, found.network, head, check_finite=not found.checked)
    backbone = build_backbone(tensors, found.path)
    projection = build_head(tensors, backbone, found.path)
    if found.entry:
        check_entry(found.entry, backbone, projection, found.path)
    origin = tensors.origin
    entry = found.entry
    transform = ImageTransform(
        size=NATIVE_SIZE if isinstance(backbone, Swin) else backbone.patch_embed.img_size[0],
        patch=backbone.patch,
        mean=origin.mean or (entry.mean if entry else IMAGENET_MEAN),
        std=origin.std or (entry.std if entry else IMAGENET_STD),
        resize=origin.resize or (entry.resize if entry else "crop"),
    )
    stated = origin.network or (entry.network if entry else None)
    card = Card(name, arch_name(backbone), stated, found.verified, entry.licence if entry else "")
    model = Model(backbone, projection, tensors.mask_token, transform, card)
    try:
        return model.to(device=device, dtype=_dtype(dtype)).eval()
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The model cannot be put on {device!r}: {str(error).splitlines()[0]} `ibot doctor` shows what is here."
        ) from error


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype is None:
        return torch.float32
    if dtype not in DTYPES:
        raise UsageError(f"A model cannot have the dtype {dtype!r}; say {', '.join(DTYPES)}.")
    return DTYPES[dtype]
