"""Any container of weights -> one state dict in timm's names; a pickle is read without ever being run."""

import argparse
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ibot_hub.errors import WeightsError
from ibot_hub.formats.onnx_tensors import ONNX, onnx_tensors
from ibot_hub.naming import from_official, from_transformers, split_head
from ibot_hub.origin import EXTRAS, Origin, origin_of_folder, origin_of_metadata

OFFICIAL = "checkpoint.pth"  # the full checkpoint in a folder of the official code
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# what torch.load raises on bytes that are no checkpoint follows from where they stop making sense
_NONSENSE = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Weights:
    """The tensors of one network: backbone in timm's names, head in the official names, both bare of prefixes."""

    backbone: Mapping[str, Tensor]
    head: Mapping[str, Tensor] | None
    mask_token: Tensor | None  # [1, D], the student's `masked_embed`
    origin: Origin


def _allowed_globals() -> list[Any]:
    """What an official checkpoint holds beside tensors, under the module names of old and of new numpy."""
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [argparse.Namespace, np.dtype, type(np.dtype(np.float64))]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return allowed


def read(path: Path, network: str | None = None, head: bool | None = None, *, check_finite: bool = True) -> Weights:
    """The weights in `path`: an official full or backbone-only file, a safetensors file, a transformers or timm folder, a run's.

    Args:
        path: a file or a folder.
        network: "teacher", "student", or None: the teacher where the file holds both, else the one it holds.
        head: True: it must be there; False: it is left out; None: it is taken where the file has it.
        check_finite: refuse NaN and infinite values. The cache passes False: it looked when the file came in.

    Raises:
        WeightsError: the file is missing, damaged, no checkpoint, or does not hold what is asked.
    """
    try:
        check_exists(path)
        if path.is_dir():
            weights = _read_folder(path, network)
        elif is_pickle(path):
            weights = _read_pickle(path, network)
        else:
            weights = _read_safetensors(path, network)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head and weights.head is None:
        raise WeightsError(f"{path} holds no projection head; the full checkpoint has it (`checkpoint.pth` in the official folders).")
    if head is False:
        weights = Weights(weights.backbone, None, weights.mask_token, weights.origin)
    if not weights.backbone:
        raise WeightsError(f"{path} holds no backbone: none of its tensors belongs to a ViT or a Swin.")
    if check_finite:
        _check_values(path, weights)
    return weights


def check_exists(path: Path) -> None:
    """Raises WeightsError where nothing is."""
    if not path.exists():
        raise WeightsError(f"{path} does not exist; give a file, a folder, or a name that `ibot models` lists.")


def save(weights: Weights, path: Path) -> None:
    """Write `weights` as one safetensors file that `read` opens without converting anything."""
    metadata = {"format": "pt", "ibot_hub": json.dumps(asdict(weights.origin), sort_keys=True)}
    safetensors.torch.save_file(_flat(weights), path, metadata)


def _flat(weights: Weights) -> dict[str, Tensor]:
    flat = {f"backbone.{name}": tensor.contiguous() for name, tensor in weights.backbone.items()}
    flat |= {f"head.{name}": tensor.contiguous() for name, tensor in (weights.head or {}).items()}
    if weights.mask_token is not None:
        flat["mask_token"] = weights.mask_token.contiguous()
    return flat


def is_pickle(path: Path) -> bool:
    """Whether the file starts as those of `torch.save` do; one of safetensors may too, by the length of its header, and then a brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith((b"PK\x03\x04", b"\x80\x02")) and not start.endswith(b"{")


def _check_values(path: Path, weights: Weights) -> None:
    for name, tensor in _flat(weights).items():
        if tensor.dtype not in FLOATS or not tensor.numel():
            kind = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            raise WeightsError(f"{path}: tensor {name!r} is {kind}; weights are floating-point numbers of 16 bits or more.")
        low, high = torch.aminmax(tensor)  # NaN goes through both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise WeightsError(f"{path}: tensor {name!r} holds NaN or infinite values; the file is damaged or its training diverged.")


def _read_pickle(path: Path, network: str | None) -> Weights:
    return _from_containers(path, unpickled(path), network)


def unpickled(path: Path) -> object:
    """What a `.pth` file holds, without anything of it being run; tensors lie in the mapped file.

    Raises:
        WeightsError: it wants to run something, is no checkpoint, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            # a mapped file brings in only the tensors that are taken: of a full checkpoint, a quarter
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, safetensors.SafetensorError, *_NONSENSE) as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"{path} is a pickle that wants to run {refused[1]}, and no pickle is ever run; ask for a safetensors file."
            ) from error
        raise WeightsError(f"{path} ({path.stat().st_size:,} bytes) is not a checkpoint, or is cut off; fetch it again.") from error


def _from_containers(path: Path, data: object, network: str | None) -> Weights:
    """Unwrap student/teacher, `state_dict` or `model`, then name the network that was found."""
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not a checkpoint: it holds a {type(data).__name__}, not named tensors.")
    both = [name for name in ("teacher", "student") if isinstance(data.get(name), dict)]
    if both:
        chosen = network or both[0]
        if chosen not in both:
            raise WeightsError(f"{path} holds the {' and the '.join(both)}, not the {chosen}.")
        return _assemble(_copied(data[chosen]), Origin(chosen, "full"))
    for key in ("state_dict", "model"):
        if isinstance(data.get(key), dict):
            return _check_network(path, _assemble(_copied(data[key]), Origin(None, key)), network)
    return _check_network(path, _assemble(_copied(data), Origin(None, "flat")), network)


def _copied(state: Mapping[Any, object]) -> dict[str, Tensor]:
    # an entry that is no tensor (an epoch, say) makes no part of a network; copies let go of the mapped file
    return {str(name): value.detach().clone() for name, value in state.items() if isinstance(value, Tensor)}


def _assemble(tensors: Mapping[str, Tensor], origin: Origin) -> Weights:
    backbone, head = split_head(tensors)
    mask_token = backbone.pop("masked_embed", None)
    if origin.network is None and origin.container == "state_dict":
        # the official extractor keeps `masked_embed`, which only a student has
        origin = Origin("student" if mask_token is not None else "teacher", origin.container)
    return Weights(from_official(backbone), head or None, mask_token, origin)


def _check_network(path: Path, weights: Weights, network: str | None) -> Weights:
    if network is not None and weights.origin.network != network:
        holds = f"the {weights.origin.network}" if weights.origin.network else "one network and does not say which"
        raise WeightsError(f"{path} holds {holds}; the {network} was asked for. Leave `network` out to take what it holds.")
    return weights


def _read_safetensors(path: Path, network: str | None) -> Weights:
    tensors, metadata = _tensors(path)
    if "ibot_hub" not in metadata:
        return _check_network(path, _assemble(tensors, Origin(None, "safetensors")), network)
    mask_token = tensors.pop("mask_token", None)
    backbone, projection = split_head(tensors)
    return _check_network(path, Weights(backbone, projection or None, mask_token, origin_of_metadata(path, metadata["ibot_hub"])), network)


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a checkpoint, or is damaged: {error}; fetch it again.") from error


def _read_folder(path: Path, network: str | None) -> Weights:
    """A run's folder, one of the official code, or one of transformers or of timm: `config.json` beside `model.safetensors`."""
    exported = [name for name in ("teacher", "student") if (path / f"{name}.safetensors").is_file()]
    if exported or (path / "recipe.toml").is_file():
        return _read_run(path, exported, network)
    if (path / OFFICIAL).is_file() and not (path / "config.json").is_file():
        return _read_pickle(path / OFFICIAL, network)
    extras = _read_extras(path / EXTRAS) if (path / EXTRAS).is_file() else None
    origin = extras.origin if extras else origin_of_folder(path)
    if origin.container == "onnx":
        return _check_network(path, _with_extras(_assemble(onnx_tensors(path / ONNX), origin), extras), network)
    file = path / "model.safetensors"
    if not file.is_file():
        pickles = sorted(entry.name for entry in path.glob("*.bin")) + sorted(entry.name for entry in path.glob("*.pth"))
        found = f", only {', '.join(pickles)}" if pickles else ""
        raise WeightsError(f"{path} has no model.safetensors{found}; save it again with safetensors.")
    tensors, _ = _tensors(file)
    weights = Weights(from_transformers(tensors), None, None, origin) if origin.container == "transformers" else _assemble(tensors, origin)
    return _check_network(path, _with_extras(weights, extras), network)


def _read_extras(file: Path) -> Weights:
    """What ibot-hub wrote beside the tensors of timm or transformers; it says how these are named too."""
    extras = _read_safetensors(file, None)
    if extras.origin.container not in ("timm", "transformers", "onnx") or extras.backbone:
        raise WeightsError(f"{file} is not what ibot-hub writes beside another library's model; remove it to read that alone.")
    return extras


def _with_extras(weights: Weights, extras: Weights | None) -> Weights:
    return replace(weights, head=extras.head, mask_token=extras.mask_token) if extras else weights


def _read_run(path: Path, exported: list[str], network: str | None) -> Weights:
    """The network of a run, which has a file for each that it exported."""
    if not exported:
        raise WeightsError(f"{path} is a run that has not saved a network yet; wait for its first checkpoint, or go on with it.")
    chosen = network or exported[0]
    if chosen not in exported:
        raise WeightsError(f"{path} holds the {exported[0]}, not the {chosen}.")
    return _read_safetensors(path / f"{chosen}.safetensors", chosen)
