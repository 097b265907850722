"""A state dict in timm's names -> the backbone it belongs to, its architecture read off the tensors' shapes."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import WeightsError
from ibot_hub.head import Head, head_like
from ibot_hub.origin import Origin
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT
from ibot_hub.weights import Weights

Backbone = ViT | Swin
_VIT_NAMES = {(192, 12): "ViT-T", (384, 12): "ViT-S", (768, 12): "ViT-B", (1024, 24): "ViT-L"}  # by width and depth
_SWIN_NAMES = {(96, 12): "Swin-T", (96, 24): "Swin-S", (128, 24): "Swin-B", (192, 24): "Swin-L"}  # by width and blocks
_HEAD_DIM = 64  # width of an attention head in every ViT of iBOT, DINO and DeiT; none of them is wider than this:
_WIDEST = 1024
_EPS = 1e-6  # of every LayerNorm that iBOT, DINO and DINOv2 trained


def build_backbone(weights: Weights, path: Path) -> Backbone:
    """The ViT or Swin whose tensors these are, holding them (not copies).

    Raises:
        WeightsError: it is neither, or a tensor is missing, left over or of the wrong shape; `path` is named.
    """
    tensors = weights.backbone
    try:
        backbone: Backbone
        if "reg_token" in tensors:
            raise WeightsError(f"{path} is a ViT with register tokens, which ibot-hub does not compute; take the one without them.")
        if "pos_embed" in tensors:
            backbone = _vit_like(tensors, weights.origin)
        elif "layers.0.blocks.0.attn.relative_position_bias_table" in tensors:
            backbone = _swin_like(tensors)
        else:
            raise WeightsError(f"{path} holds neither a ViT (`pos_embed`) nor a Swin (`layers.0...`); first tensors: {_some(tensors)}.")
    except (LookupError, ValueError, AssertionError, ArithmeticError) as error:
        raise WeightsError(f"{path} is no whole backbone: its architecture cannot be read off its tensors ({error}).") from error
    load_strictly(backbone, tensors, path, "backbone")
    return backbone


def build_head(weights: Weights, backbone: Backbone, path: Path) -> Head | None:
    """The head whose tensors these are, or None where there are none; raises WeightsError as `build_backbone`."""
    if weights.head is None:
        return None
    try:
        head = head_like(weights.head)
    except (LookupError, ValueError) as error:
        raise WeightsError(f"{path} holds no whole projection head ({error}); load it with head=False for the backbone alone.") from error
    load_strictly(head, weights.head, path, "projection head")
    if head.mlp[0].in_features != backbone.num_features:
        raise WeightsError(
            f"{path}: the head takes {head.mlp[0].in_features} numbers, the backbone gives {backbone.num_features}; "
            "load it with head=False for the backbone alone."
        )
    return head


def arch_name(backbone: Backbone) -> str:
    """The field's name of an architecture: "ViT-S/16", "Swin-T/7", or its numbers where it has no name."""
    if isinstance(backbone, Swin):
        depth = sum(len(stage.blocks) for stage in backbone.layers)
        known = _SWIN_NAMES.get((backbone.embed_dim, depth), f"Swin-{backbone.embed_dim}x{depth}")
        return f"{known}/{backbone.layers[0].blocks[0].window_size[0]}"
    known = _VIT_NAMES.get((backbone.embed_dim, len(backbone.blocks)), f"ViT-{backbone.embed_dim}x{len(backbone.blocks)}")
    return f"{known}/{backbone.patch}"


def check_entry(entry: Checkpoint, backbone: Backbone, projection: Head | None, path: Path) -> None:
    """Raises WeightsError unless what came under a name of the catalogue is what the catalogue says."""
    arch, patterns = arch_name(backbone), projection.last_layer.weight_v.shape[0] if projection else entry.patterns
    if arch != entry.arch or (entry.patterns and patterns != entry.patterns):
        raise WeightsError(
            f"{path} is not {entry.name}: it holds a {arch} with {patterns} patterns, should be {entry.arch} with {entry.patterns}; "
            "remove it, or load it by its path."
        )
    if backbone.norm.eps != _EPS:
        raise WeightsError(
            f"{path} is not {entry.name}: its config.json says an eps of {backbone.norm.eps:g}, the network was trained with {_EPS:g}; "
            "take a newer revision, or load the folder by its path for what it says."
        )


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Give `module` exactly these tensors; every difference in names or shapes is a WeightsError."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, should be {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [
        *([f"{len(missing)} missing ({_some(missing)})"] if missing else []),
        *([f"{len(extra)} left over ({_some(extra)})"] if extra else []),
        *([f"{len(wrong)} misshapen ({_some(wrong)})"] if wrong else []),
    ]
    if problems:
        raise WeightsError(f"{path} does not fit the {what} it describes, of {len(expected)} tensors: {'; '.join(problems)}.")
    module.load_state_dict(dict(tensors), assign=True)


def _vit_like(tensors: Mapping[str, Tensor], origin: Origin) -> ViT:
    _, count, dim = tensors["pos_embed"].shape
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    side = math.isqrt(count - 1)
    if not side or side * side != count - 1:
        raise ValueError(f"a position table of {count - 1} patches is not square")
    if origin.heads is None and (dim % _HEAD_DIM or dim > _WIDEST):
        wrong = f"no multiple of {_HEAD_DIM}" if dim % _HEAD_DIM else "more than any ViT of iBOT or DINO has"
        raise ValueError(f"a width of {dim} is {wrong}, so the number of attention heads cannot be known without a config.json")
    return ViT.on_meta(
        img_size=side * patch,
        patch_size=patch,
        embed_dim=dim,
        depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        num_heads=origin.heads or dim // _HEAD_DIM,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        eps=origin.eps if origin.eps is not None else _EPS,
        layer_scale="blocks.0.ls1.gamma" in tensors,
    )


def _swin_like(tensors: Mapping[str, Tensor]) -> Swin:
    blocks = {tuple(name.split(".")[1:4:2]) for name in tensors if name.startswith("layers.") and ".blocks." in name}
    stages = len({stage for stage, _ in blocks})
    rows, _ = tensors["layers.0.blocks.0.attn.relative_position_bias_table"].shape
    with torch.device("cpu"):  # its index tables are computed, not stored, so they need memory
        return Swin(
            patch_size=tensors["patch_embed.proj.weight"].shape[-1],
            window_size=(round(rows**0.5) + 1) // 2,
            embed_dim=tensors["patch_embed.proj.weight"].shape[0],
            depths=tuple(sum(stage == str(index) for stage, _ in blocks) for index in range(stages)),
            num_heads=tuple(tensors[f"layers.{index}.blocks.0.attn.relative_position_bias_table"].shape[1] for index in range(stages)),
        )


def _some(names: Mapping[str, object] | list[str]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
