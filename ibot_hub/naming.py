"""The names that other layouts give to a tensor, translated into timm's."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TRANSFORMERS_VIT = (
    (re.compile(r"^(?:vit\.)?embeddings\.cls_token$"), "cls_token"),
    (re.compile(r"^(?:vit\.)?embeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^(?:vit\.)?embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^(?:vit\.)?encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\."), r"blocks.\1.attn.\2."),
    (re.compile(r"^(?:vit\.)?encoder\.layer\.(\d+)\.attention\.output\.dense\."), r"blocks.\1.attn.proj."),
    (re.compile(r"^(?:vit\.)?encoder\.layer\.(\d+)\.layernorm_before\."), r"blocks.\1.norm1."),
    (re.compile(r"^(?:vit\.)?encoder\.layer\.(\d+)\.layernorm_after\."), r"blocks.\1.norm2."),
    (re.compile(r"^(?:vit\.)?encoder\.layer\.(\d+)\.intermediate\.dense\."), r"blocks.\1.mlp.fc1."),
    (re.compile(r"^(?:vit\.)?encoder\.layer\.(\d+)\.output\.dense\."), r"blocks.\1.mlp.fc2."),
    (re.compile(r"^(?:vit\.)?layernorm\."), "norm."),
)
_OFFICIAL_DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.")
_PARAMETRISED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers `ViTModel` state dict in timm's names: query, key and value joined, pooler and classifier left out."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.removeprefix("vit.").startswith(("pooler.", "classifier.")):
            continue
        for pattern, replacement in _TRANSFORMERS_VIT:
            name, count = pattern.subn(replacement, name)
            if count:
                break
        renamed[name] = tensor
    for query in [name for name in renamed if ".attn.query." in name]:
        parts = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[query.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official backbone state dict in timm's names: a Swin's down-sampling stands at the start of the next stage.

    Names of a ViT are the same. `relative_position_index`, which follows from the window, is left out.
    """
    renamed: dict[str, Tensor] = {}
    # timm's own files have the same names one stage later; only the official ones have a down-sampling in stage 0
    official = any(name.startswith("layers.0.downsample.") for name in tensors)
    for name, tensor in tensors.items():
        if name.endswith("relative_position_index"):
            continue
        if official:
            name = _OFFICIAL_DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
        renamed[name] = tensor
    return renamed


def split_head(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone and projection head of one flat state dict, bare names each; a classifier of timm is left out.

    Takes the prefixes of the official code (`module.`, `backbone.`) and of forks (`encoder.`), legacy and parametrised
    weight norm, and gives `last_layer2` only where it differs from `last_layer` (facts: official checkpoints store both
    even when they are one module).
    """
    backbone: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        if name.startswith("head."):
            name = name.removeprefix("head.")
            for modern, legacy in _PARAMETRISED.items():
                name = name.replace(modern, legacy)
            head[name] = tensor
        else:
            backbone[name.removeprefix("backbone.").removeprefix("encoder.")] = tensor
    if set(head) <= {"weight", "bias", "fc.weight", "fc.bias"}:  # of timm's ViT, and of its Swin
        head = {}
    for part in ("weight_g", "weight_v"):
        first, second = head.get(f"last_layer.{part}"), head.get(f"last_layer2.{part}")
        if first is None or second is None or not torch.equal(first, second):
            break
    else:
        head = {name: tensor for name, tensor in head.items() if not name.startswith("last_layer2.")}
    return backbone, head
