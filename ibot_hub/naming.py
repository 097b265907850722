"""The names that other layouts give to a tensor, translated into timm's."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_PREFIX = re.compile(r"^(?:vit|swin)\.")  # of a classifier's backbone
_FROM_TRANSFORMERS = (  # of version 4, which is also what version 5 writes
    (re.compile(r"^embeddings\.cls_token$"), "cls_token"),
    (re.compile(r"^embeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^embeddings\.norm\."), "patch_embed.norm."),
    (re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\."), r"blocks.\1.attn.\2."),
    (re.compile(r"^encoder\.layer\.(\d+)\."), r"blocks.\1."),
    (re.compile(r"^encoder\.layers\.(\d+)\.downsample\."), r"layers.\1.downsample."),
    (re.compile(r"^encoder\.layers\.(\d+)\.blocks\.(\d+)\.attention\.self\."), r"layers.\1.blocks.\2.attn."),
    (re.compile(r"^encoder\.layers\."), "layers."),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
    (re.compile(r"^layernorm\."), "norm."),
)
_TO_TRANSFORMERS = (
    (re.compile(r"^cls_token$"), "embeddings.cls_token"),
    (re.compile(r"^pos_embed$"), "embeddings.position_embeddings"),
    (re.compile(r"^patch_embed\.proj\."), "embeddings.patch_embeddings.projection."),
    (re.compile(r"^patch_embed\.norm\."), "embeddings.norm."),
    (re.compile(r"^norm\."), "layernorm."),
    (re.compile(r"\.norm1\."), ".layernorm_before."),
    (re.compile(r"\.norm2\."), ".layernorm_after."),
    (re.compile(r"\.attn\.proj\."), ".attention.output.dense."),
    (re.compile(r"\.mlp\.fc1\."), ".intermediate.dense."),
    (re.compile(r"\.mlp\.fc2\."), ".output.dense."),
    (re.compile(r"^blocks\.(\d+)\.attn\."), r"encoder.layer.\1.attention.attention."),
    (re.compile(r"^blocks\."), "encoder.layer."),
    (re.compile(r"^layers\.(\d+)\.blocks\.(\d+)\.attn\."), r"encoder.layers.\1.blocks.\2.attention.self."),
    (re.compile(r"^layers\."), "encoder.layers."),
)
_DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.")
_PARAMETRISED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers `ViTModel` or `SwinModel` state dict in timm's names: query, key and value joined, pooler and classifier left out."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = _PREFIX.sub("", name)
        if not name.startswith(("pooler.", "classifier.")):
            renamed[_substituted(_FROM_TRANSFORMERS, name)] = tensor
    for query in [name for name in renamed if ".attn.query." in name]:
        parts = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[query.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return from_official(renamed)  # a Swin's down-sampling stands where the official code has it


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in timm's names in those of a transformers `ViTModel` or `SwinModel`: qkv split in three."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in to_official(tensors).items():
        for part, share in zip(("query", "key", "value"), tensor.chunk(3), strict=True) if ".qkv." in name else ((None, tensor),):
            renamed[_substituted(_TO_TRANSFORMERS, name.replace(".qkv.", f".{part}."))] = share
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
            name = _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)
        renamed[name] = tensor
    return renamed


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone state dict in timm's names in the official ones; the tables that follow from a Swin's window are not among them."""
    return {_DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", name): tensor for name, tensor in tensors.items()}


def _substituted(pairs: Iterable[tuple[re.Pattern[str], str]], name: str) -> str:
    for pattern, replacement in pairs:
        name = pattern.sub(replacement, name)
    return name


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
