"""Any container of weights -> one state dict in timm's names; a pickle is read without ever being run."""

import argparse
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ibot_hub.errors import WeightsError
from ibot_hub.naming import from_official, from_transformers, split_head

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Origin:
    """What a container says beside its tensors; None where it says nothing."""

    network: str | None = None  # "teacher" or "student"
    container: str = ""
    heads: int | None = None  # attention heads; seen in no tensor of a ViT
    eps: float | None = None  # of every LayerNorm
    mean: Triple | None = None
    std: Triple | None = None


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
    """The weights in `path`: an official full or backbone-only file, a safetensors file, a transformers or timm folder.

    Args:
        path: a file or a folder.
        network: "teacher", "student", or None: the teacher where the file holds both, else the one it holds.
        head: True: it must be there; False: it is left out; None: it is taken where the file has it.
        check_finite: refuse NaN and infinite values. The cache passes False: it looked when the file came in.

    Raises:
        WeightsError: the file is missing, damaged, no checkpoint, or does not hold what is asked.
    """
    if not path.exists():
        raise WeightsError(f"{path} does not exist; give a file, a folder, or a name that `ibot models` lists.")
    if path.is_dir():
        weights = _read_folder(path, network)
    elif _starts_with(path, b"PK\x03\x04") or _starts_with(path, b"\x80"):
        weights = _read_pickle(path, network)
    else:
        weights = _read_safetensors(path, network, head)
    if head and weights.head is None:
        raise WeightsError(f"{path} holds no projection head; the full checkpoint has it (`checkpoint.pth` in the official folders).")
    if head is False:
        weights = Weights(weights.backbone, None, weights.mask_token, weights.origin)
    if not weights.backbone:
        raise WeightsError(f"{path} holds no backbone: none of its tensors belongs to a ViT or a Swin.")
    if check_finite:
        _check_finite(path, weights)
    return weights


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


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error


def _check_finite(path: Path, weights: Weights) -> None:
    for name, tensor in _flat(weights).items():
        low, high = torch.aminmax(tensor)  # NaN goes through both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise WeightsError(f"{path}: tensor {name!r} holds NaN or infinite values; the file is damaged or its training diverged.")


def _read_pickle(path: Path, network: str | None) -> Weights:
    zipped = zipfile.is_zipfile(path)
    if _starts_with(path, b"PK") and not zipped:
        raise WeightsError(f"{path} is cut off ({path.stat().st_size:,} bytes); fetch it again.")
    try:
        with torch.serialization.safe_globals(_allowed_globals()):
            # a mapped file brings in only the tensors that are taken: of a full checkpoint, a quarter
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error) or "allowed" in str(error):
            raise WeightsError(
                f"{path} is a pickle that wants to run code, which is never done: {_refused_name(error)}; ask for a safetensors file."
            ) from error
        raise WeightsError(f"{path} is not a checkpoint, or is cut off; fetch it again.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # what torch.load raises on bytes that are no checkpoint follows from where they stop making sense
        raise WeightsError(f"{path} is not a checkpoint, or is cut off; fetch it again.") from error
    return _from_containers(path, data, network)


def _refused_name(error: Exception) -> str:
    for line in str(error).splitlines():
        if "GLOBAL" in line:
            return line.strip().removeprefix("WeightsUnpickler error: ").split(" was not")[0]
    return str(error).splitlines()[0][:120]


def _from_containers(path: Path, data: object, network: str | None) -> Weights:
    """Unwrap student/teacher, `state_dict` or `model`, then name the network that was found."""
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not a checkpoint: it holds a {type(data).__name__}, not named tensors.")
    both = [name for name in ("teacher", "student") if isinstance(data.get(name), dict)]
    if both:
        chosen = network or both[0]
        if chosen not in both:
            raise WeightsError(f"{path} holds the {' and the '.join(both)}, not the {chosen}.")
        return _assemble(path, data[chosen], Origin(chosen, "full"))
    for key in ("state_dict", "model"):
        if isinstance(data.get(key), dict):
            return _check_network(path, _assemble(path, data[key], Origin(None, key)), network)
    return _check_network(path, _assemble(path, data, Origin(None, "flat")), network)


def _assemble(path: Path, state: Mapping[object, object], origin: Origin) -> Weights:
    # an entry that is no tensor (an epoch, say) makes no part of a network; copies let go of the mapped file
    tensors = {str(name): value.detach().clone() for name, value in state.items() if isinstance(value, Tensor)}
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


def _read_safetensors(path: Path, network: str | None, head: bool | None) -> Weights:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys() if head is not False or not name.startswith("head.")}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a checkpoint, or is damaged: {error}.") from error
    if "ibot_hub" not in metadata:
        return _check_network(path, _assemble(path, tensors, Origin(None, "safetensors")), network)
    facts = json.loads(metadata["ibot_hub"])
    for key in ("mean", "std"):
        facts[key] = tuple(facts[key]) if facts[key] else None
    mask_token = tensors.pop("mask_token", None)
    backbone, projection = split_head(tensors)
    return _check_network(path, Weights(backbone, projection or None, mask_token, Origin(**facts)), network)


def _read_folder(path: Path, network: str | None) -> Weights:
    """A transformers `ViTModel` folder or a timm folder: `config.json` beside `model.safetensors`."""
    config_file, file = path / "config.json", path / "model.safetensors"
    if not config_file.is_file():
        raise WeightsError(
            f"{path} has no config.json; give the checkpoint file itself, or a folder in the layout of timm or transformers."
        )
    if not file.is_file():
        pickles = sorted(entry.name for entry in path.glob("*.bin")) + sorted(entry.name for entry in path.glob("*.pth"))
        found = f", only {', '.join(pickles)}" if pickles else ""
        raise WeightsError(f"{path} has no model.safetensors{found}; save it again with safetensors.")
    try:
        config = json.loads(config_file.read_text())
    except ValueError as error:
        raise WeightsError(f"{config_file} is not JSON: {error}.") from error
    weights = _read_safetensors(file, None, None)
    if config.get("model_type") == "vit":
        backbone = from_transformers(weights.backbone)
        prepared = _json_if_present(path / "preprocessor_config.json")
        origin = Origin(
            None, "transformers", config.get("num_attention_heads"), config.get("layer_norm_eps"),
            _triple(prepared.get("image_mean")), _triple(prepared.get("image_std")),
        )  # fmt: skip
    elif str(config.get("architecture", "")).startswith(("vit_", "swin_")):
        backbone = dict(weights.backbone)
        facts = config.get("pretrained_cfg", config)
        origin = Origin(None, "timm", mean=_triple(facts.get("mean")), std=_triple(facts.get("std")))
    else:
        kind = config.get("model_type") or config.get("architecture") or "nothing known"
        raise WeightsError(f"{config_file} describes {kind!r}; a ViT of transformers, or a ViT or Swin of timm, can be read.")
    return _check_network(path, Weights(backbone, weights.head, weights.mask_token, origin), network)


def _json_if_present(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _triple(values: list[float] | None) -> Triple | None:
    return (values[0], values[1], values[2]) if values else None
