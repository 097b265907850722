"""A model as a folder in timm's layout, which transformers' `AutoModel` opens too, with what timm has no room for beside it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ibot_hub import weights
from ibot_hub.errors import UsageError
from ibot_hub.formats.agreement import largest_difference
from ibot_hub.formats.contents import contents
from ibot_hub.model import Model
from ibot_hub.origin import EXTRAS
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT

EPS = 1e-6  # of every LayerNorm of timm's ViT, which no config.json can change
_FAMILIES = {
    "ViT-T": "vit_tiny", "ViT-S": "vit_small", "ViT-B": "vit_base", "ViT-L": "vit_large",
    "Swin-T": "swin_tiny", "Swin-S": "swin_small", "Swin-B": "swin_base", "Swin-L": "swin_large",
}  # fmt: skip


def write_timm(model: Model, folder: Path) -> None:
    """Write config.json, model.safetensors (both timm's, and nothing else) and ibot.safetensors (head, mask token, origin).

    `timm.create_model("local-dir:FOLDER", pretrained=True)` and `transformers.AutoModel.from_pretrained(FOLDER)` give a ViT's
    tokens bit for bit, for the same normalised tensor at the native size. At other sizes their position tables are their own,
    and of a Swin they have another eps (`timm_deviation`).

    Raises:
        UsageError: a ViT with an eps that timm cannot be told.
    """
    content = contents(model, "timm")
    if not isinstance(model.backbone, Swin) and content.origin.eps != EPS:
        raise UsageError(f"timm's ViT has the eps {EPS}, this model {content.origin.eps}; export it to transformers, whose config says it.")
    (folder / "config.json").write_text(json.dumps(timm_config(model), indent=2) + "\n")
    safetensors.torch.save_file(dict(content.backbone), folder / "model.safetensors", {"format": "pt"})
    weights.save(replace(content, backbone={}), folder / EXTRAS)


def timm_config(model: Model) -> dict[str, Any]:
    """What config.json says: timm's architecture, and each number in which the model differs from it or could.

    `model_args` must not hold num_classes, global_pool or in_chans: transformers' `AutoModel` gives them itself.
    """
    backbone, transform = model.backbone, model.transform
    swin, squashed = isinstance(backbone, Swin), transform.resize == "squash"
    return {
        "architecture": _architecture(model),
        "num_classes": 0,
        "num_features": backbone.num_features,
        "global_pool": "avg" if swin else "token",
        "model_args": _swin_args(backbone) if isinstance(backbone, Swin) else _vit_args(backbone),
        "pretrained_cfg": {
            "tag": "ibot", "custom_load": False, "input_size": [3, transform.size, transform.size], "fixed_input_size": True,
            "interpolation": "bicubic", "crop_pct": 1.0 if squashed else 0.875, "crop_mode": "squash" if squashed else "center",
            "mean": list(transform.mean), "std": list(transform.std), "num_classes": 0, "pool_size": [7, 7] if swin else None,
            "first_conv": "patch_embed.proj", "classifier": "head.fc" if swin else "head",
        },
    }  # fmt: skip


def timm_deviation(model: Model, folder: Path) -> float:
    """How far timm's tokens are from ours, from the folder that `write_timm` wrote: 0 for a ViT, about 1e-3 for a Swin."""
    import timm

    twin = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def answer(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = twin.forward_features(images)
        patches = tokens.flatten(1, 2) if tokens.ndim == 4 else tokens[:, 1:]
        return twin.forward_head(tokens, pre_logits=True), patches

    return largest_difference(model, answer)


def _architecture(model: Model) -> str:
    """The nearest of timm's names; `model_args` holds every number in which the model may differ from it."""
    family = _FAMILIES.get(model.card.arch.partition("/")[0])
    if isinstance(model.backbone, Swin):
        return f"{family or 'swin_tiny'}_patch4_window7_224"
    return f"{family or 'vit_base'}_patch16_224"


def _vit_args(backbone: ViT) -> dict[str, Any]:
    block: Any = backbone.blocks[0]
    return {
        "img_size": backbone.patch_embed.img_size[0], "dynamic_img_size": True, "patch_size": backbone.patch,
        "embed_dim": backbone.embed_dim, "depth": len(backbone.blocks), "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / backbone.embed_dim,
    } | ({"init_values": 1.0} if backbone.layer_scale else {})  # fmt: skip


def _swin_args(backbone: Swin) -> dict[str, Any]:
    return {
        "patch_size": backbone.patch_embed.patch_size[0], "window_size": backbone.layers[0].blocks[0].window_size[0],
        "embed_dim": backbone.embed_dim, "depths": [len(stage.blocks) for stage in backbone.layers],
        "num_heads": [stage.blocks[0].attn.num_heads for stage in backbone.layers],
    }  # fmt: skip
