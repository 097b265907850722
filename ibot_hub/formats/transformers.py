"""A model as a folder in transformers' own layout, `ViTModel` or `SwinModel`, with what that has no room for beside it."""

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
from ibot_hub.naming import to_transformers
from ibot_hub.origin import EXTRAS
from ibot_hub.swin import NATIVE_SIZE, Swin
from ibot_hub.vit import ViT

SWIN_WINDOW = 7  # of the one Swin that transformers can hold


def write_transformers(model: Model, folder: Path) -> None:
    """Write config.json, preprocessor_config.json, model.safetensors (names that transformers 4 and 5 read) and ibot.safetensors.

    Load the network with `AutoModel.from_pretrained(FOLDER, add_pooling_layer=False)`: else a pooler with random weights appears.

    Raises:
        UsageError: a Swin with another window than 7: transformers wants as many rows in the tables of the last stage as in those of
            the others, and the official code has fewer there.
    """
    content = contents(model, "transformers")
    config = _swin_config(model.backbone) if isinstance(model.backbone, Swin) else _vit_config(model.backbone)
    dtype = str(model.dtype).removeprefix("torch.")
    for name, facts in (("config.json", config | {"torch_dtype": dtype}), ("preprocessor_config.json", _preprocessor_config(model))):
        (folder / name).write_text(json.dumps(facts, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in to_transformers(content.backbone).items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    weights.save(replace(content, backbone={}), folder / EXTRAS)


def transformers_deviation(model: Model, folder: Path) -> float:
    """How far transformers' tokens are from ours, from the folder that `write_transformers` wrote.

    Raises:
        UsageError: transformers is not installed.
    """
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise UsageError("An export to transformers is checked with transformers; pip install 'ibot-hub[transformers]'.") from error
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a line of its own for a moment's work
    twin = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype="float32").eval()
    if shown:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]

    def answer(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = twin(pixel_values=images).last_hidden_state
        return (tokens.mean(1), tokens) if isinstance(model.backbone, Swin) else (tokens[:, 0], tokens[:, 1:])

    return largest_difference(model, answer)


def _vit_config(backbone: ViT) -> dict[str, Any]:
    block: Any = backbone.blocks[0]
    if backbone.layer_scale:
        raise UsageError("transformers' ViTModel has no LayerScale, which this model has; take --format timm.")
    return {
        "model_type": "vit", "architectures": ["ViTModel"], "image_size": backbone.patch_embed.img_size[0],
        "patch_size": backbone.patch, "num_channels": 3, "hidden_size": backbone.embed_dim,
        "num_hidden_layers": len(backbone.blocks), "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features, "hidden_act": "gelu", "layer_norm_eps": backbone.norm.eps, "qkv_bias": True,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def _swin_config(backbone: Swin) -> dict[str, Any]:
    block = backbone.layers[0].blocks[0]
    if block.window_size[0] != SWIN_WINDOW:
        raise UsageError(
            f"transformers' Swin holds no model with window {block.window_size[0]} (its last stage has a smaller one in the official code, "
            f"in transformers the same); only window {SWIN_WINDOW} can be exported: take --format timm."
        )
    return {
        "model_type": "swin", "architectures": ["SwinModel"], "image_size": NATIVE_SIZE, "patch_size": backbone.patch_embed.patch_size[0],
        "num_channels": 3, "embed_dim": backbone.embed_dim, "depths": [len(stage.blocks) for stage in backbone.layers],
        "num_heads": [stage.blocks[0].attn.num_heads for stage in backbone.layers], "window_size": SWIN_WINDOW,
        "mlp_ratio": block.mlp.fc1.out_features / backbone.embed_dim, "hidden_act": "gelu", "layer_norm_eps": backbone.norm.eps,
        "qkv_bias": True, "use_absolute_embeddings": False, "drop_path_rate": 0.0, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def _preprocessor_config(model: Model) -> dict[str, Any]:
    """`ViTImageProcessor` would squash the image, which is wrong for iBOT."""
    transform, squashed = model.transform, model.transform.resize == "squash"
    square = {"height": transform.size, "width": transform.size}
    return {
        "image_processor_type": "BitImageProcessor", "do_convert_rgb": True,
        "do_resize": True, "size": square if squashed else {"shortest_edge": transform.size * 256 // 224}, "resample": 3,
        "do_center_crop": not squashed, "crop_size": square,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": list(transform.mean), "image_std": list(transform.std),
    }  # fmt: skip
