"""What a container says of its tensors beside them: the network, and what no shape shows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibot_hub.errors import WeightsError
from ibot_hub.options import Resize

EXTRAS = "ibot.safetensors"  # beside another library's model: head, mask token, origin
ANSWERS = "answers.safetensors"  # beside a model in a folder: what it answers to one fixed picture
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
    resize: Resize | None = None  # how images are fitted


def origin_of_metadata(path: Path, text: str) -> Origin:
    """What our own safetensors file says, as JSON in its metadata. Raises WeightsError if that cannot be read."""
    try:
        facts = json.loads(text)
        return Origin(**facts | {key: _triple(path, facts[key]) for key in ("mean", "std")})
    except (ValueError, TypeError, LookupError) as error:
        raise WeightsError(
            f"{path}: its metadata `ibot_hub` cannot be read ({text[:60]!r}); the file is damaged, or ibot-hub too old."
        ) from error


def origin_of_folder(path: Path) -> Origin:
    """What `config.json` says in a folder in the layout of transformers' `ViTModel` or `SwinModel`, or of timm.

    Raises:
        WeightsError: there is none, it cannot be read, or it describes something else.
    """
    config_file = path / "config.json"
    if not config_file.is_file():
        raise WeightsError(
            f"{path} has no config.json; give the checkpoint file itself, or the folder of a run, of timm or of transformers."
        )
    config = _json(config_file)
    kind = config.get("model_type") or config.get("architecture") or "nothing known"
    if kind in ("vit", "swin"):
        return _of_transformers(path, config)
    if str(kind).startswith(("vit_", "swin_")):
        return _of_timm(config_file, config)
    raise WeightsError(f"{config_file} describes {kind!r}; a ViT or Swin of transformers or of timm can be read.")


def _of_transformers(path: Path, config: Mapping[str, Any]) -> Origin:
    if config.get("hidden_act", "gelu") != "gelu":
        raise WeightsError(f"{path} has the activation {config['hidden_act']!r}; a network of iBOT has gelu.")
    prepared_file = path / "preprocessor_config.json"
    prepared = _json(prepared_file) if prepared_file.is_file() else {}
    mean, std = (_triple(prepared_file, prepared.get(key)) for key in ("image_mean", "image_std"))
    size = prepared.get("size")
    squashed = isinstance(size, dict) and "height" in size and not prepared.get("do_center_crop")  # as `ViTImageProcessor` does
    resize: Resize | None = "squash" if squashed else None
    if config["model_type"] == "swin":  # its tensors show the attention heads, and ours has the official eps whatever is said
        return Origin(None, "transformers", None, None, mean, std, resize)
    # what is not said is the default of `ViTConfig`
    return Origin(None, "transformers", config.get("num_attention_heads", 12), config.get("layer_norm_eps", 1e-12), mean, std, resize)


def _of_timm(config_file: Path, config: Mapping[str, Any]) -> Origin:
    facts = config.get("pretrained_cfg", config)
    mean, std = (_triple(config_file, facts.get(key)) for key in ("mean", "std"))
    resize: Resize | None = "squash" if facts.get("crop_mode") == "squash" else None
    if not config["architecture"].startswith("vit_"):
        return Origin(None, "timm", None, None, mean, std, resize)
    import timm  # late, because it takes seconds and only this needs it

    try:
        # one block tells what all have, and takes no time to make
        twin = timm.create_model(config["architecture"], **config.get("model_args", {}) | {"depth": 1})
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise WeightsError(f"{config_file} describes a model that timm {timm.__version__} cannot make: {error}.") from error
    return Origin(None, "timm", twin.blocks[0].attn.num_heads, twin.norm.eps, mean, std, resize)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named settings.")
    return content


def _triple(path: Path, values: Any) -> Triple | None:
    if values is None:
        return None
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path} gives {values!r} for a mean or std; it takes three numbers.") from error
    return red, green, blue
