"""Every layout's names become timm's; the head is told from the backbone and from a classifier."""

import pytest
import timm
import torch
from torch import Tensor

from ibot_hub.naming import from_official, from_transformers, split_head, to_official, to_transformers


def numbered(*names: str) -> dict[str, Tensor]:
    """A tensor a name, each with a value of its own, so that two that are mixed up differ."""
    return {name: torch.tensor([float(index)]) for index, name in enumerate(names)}


def values(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: tensor.item() for name, tensor in tensors.items()}


def test_the_down_sampling_of_an_official_swin_stands_one_stage_later() -> None:
    official = numbered("layers.0.downsample.norm.weight", "layers.1.downsample.reduction.weight", "layers.1.blocks.0.norm1.weight")
    assert values(from_official(official)) == {
        "layers.1.downsample.norm.weight": 0,
        "layers.2.downsample.reduction.weight": 1,
        "layers.1.blocks.0.norm1.weight": 2,
    }


def test_the_names_of_timm_stay_as_they_are() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=16, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1), num_classes=0)
    vit = timm.create_model("vit_tiny_patch16_224", embed_dim=64, depth=1, num_heads=1, num_classes=0)
    for tensors in (swin.state_dict(), vit.state_dict()):
        assert list(from_official(tensors)) == [name for name in tensors if not name.endswith("relative_position_index")]


def test_the_table_of_a_window_is_left_out_because_it_follows_from_the_window() -> None:
    assert from_official(numbered("layers.0.blocks.0.attn.relative_position_index")) == {}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "encoder.", "module.encoder."])
def test_prefixes_of_a_backbone(prefix: str) -> None:
    backbone, head = split_head(numbered(f"{prefix}cls_token", f"{prefix}blocks.0.attn.qkv.weight"))
    assert values(backbone) == {"cls_token": 0, "blocks.0.attn.qkv.weight": 1}
    assert head == {}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_head_and_its_prefixes(prefix: str) -> None:
    backbone, head = split_head(numbered(f"{prefix}head.mlp.0.weight", f"{prefix}head.last_layer.weight_v"))
    assert values(head) == {"mlp.0.weight": 0, "last_layer.weight_v": 1}
    assert backbone == {}


def test_parametrised_weight_norm_takes_its_old_names() -> None:
    names = [f"head.{layer}.parametrizations.weight.original{index}" for layer in ("last_layer", "last_layer2") for index in (0, 1)]
    assert values(split_head(numbered(*names))[1]) == {
        "last_layer.weight_g": 0,
        "last_layer.weight_v": 1,
        "last_layer2.weight_g": 2,
        "last_layer2.weight_v": 3,
    }


@pytest.mark.parametrize(
    ("length", "direction", "kept"),
    [(0.0, 0.0, False), (1.0, 0.0, True), (0.0, 1.0, True)],
)
def test_a_second_layer_is_given_only_where_it_differs(length: float, direction: float, kept: bool) -> None:
    first = {"head.last_layer.weight_g": torch.ones(3, 1), "head.last_layer.weight_v": torch.ones(3, 2)}
    second = {"head.last_layer2.weight_g": torch.ones(3, 1) + length, "head.last_layer2.weight_v": torch.ones(3, 2) + direction}
    names = set(split_head(first | second)[1])
    assert names == {"last_layer.weight_g", "last_layer.weight_v"} | ({"last_layer2.weight_g", "last_layer2.weight_v"} if kept else set())


def test_a_second_layer_of_another_width_is_kept() -> None:
    sizes = {"last_layer": 3, "last_layer2": 5}
    head = {f"head.{layer}.weight_{part}": torch.ones(size, 1) for layer, size in sizes.items() for part in "gv"}
    assert len(split_head(head)[1]) == 4


@pytest.mark.parametrize("names", [("head.weight", "head.bias"), ("head.fc.weight", "head.fc.bias"), ("module.head.weight",)])
def test_a_classifier_is_no_projection_head(names: tuple[str, ...]) -> None:
    assert split_head(numbered("cls_token", *names)) == ({"cls_token": torch.tensor([0.0])}, {})


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_names_of_transformers(prefix: str) -> None:
    layer = f"{prefix}encoder.layer.11"
    theirs = numbered(
        f"{prefix}embeddings.cls_token", f"{prefix}embeddings.position_embeddings", f"{prefix}embeddings.patch_embeddings.projection.bias",
        f"{layer}.attention.attention.query.weight", f"{layer}.attention.attention.key.weight", f"{layer}.attention.attention.value.weight",
        f"{layer}.attention.output.dense.bias", f"{layer}.layernorm_before.weight", f"{layer}.layernorm_after.weight",
        f"{layer}.intermediate.dense.bias", f"{layer}.output.dense.bias", f"{prefix}layernorm.bias",
        f"{prefix}pooler.dense.weight", "classifier.weight",
    )  # fmt: skip
    ours = from_transformers(theirs)
    assert ours.pop("blocks.11.attn.qkv.weight").tolist() == [3, 4, 5]
    assert values(ours) == {
        "cls_token": 0, "pos_embed": 1, "patch_embed.proj.bias": 2, "blocks.11.attn.proj.bias": 6, "blocks.11.norm1.weight": 7,
        "blocks.11.norm2.weight": 8, "blocks.11.mlp.fc1.bias": 9, "blocks.11.mlp.fc2.bias": 10, "norm.bias": 11,
    }  # fmt: skip


def test_what_transformers_leaves_incomplete_stays_visible_to_the_strict_check() -> None:
    ours = from_transformers(
        numbered("encoder.layer.0.attention.attention.query.bias", "encoder.layer.0.attention.attention.key.bias", "odd")
    )
    assert set(ours) == {"blocks.0.attn.query.bias", "blocks.0.attn.key.bias", "odd"}


def test_names_of_a_swin_of_transformers_there_and_back() -> None:
    block, theirs_block = "layers.2.blocks.1", "encoder.layers.2.blocks.1"
    ours = numbered(
        "patch_embed.proj.weight", "patch_embed.norm.bias", f"{block}.norm1.weight", f"{block}.attn.relative_position_bias_table",
        f"{block}.attn.proj.weight", f"{block}.norm2.weight", f"{block}.mlp.fc1.bias", f"{block}.mlp.fc2.bias",
        "layers.1.downsample.norm.bias", "layers.3.downsample.reduction.weight", "norm.weight",
    )  # fmt: skip
    theirs = to_transformers(ours)
    assert values(theirs) == {
        "embeddings.patch_embeddings.projection.weight": 0, "embeddings.norm.bias": 1, f"{theirs_block}.layernorm_before.weight": 2,
        f"{theirs_block}.attention.self.relative_position_bias_table": 3, f"{theirs_block}.attention.output.dense.weight": 4,
        f"{theirs_block}.layernorm_after.weight": 5, f"{theirs_block}.intermediate.dense.bias": 6, f"{theirs_block}.output.dense.bias": 7,
        "encoder.layers.0.downsample.norm.bias": 8, "encoder.layers.2.downsample.reduction.weight": 9, "layernorm.weight": 10,
    }  # fmt: skip
    index = numbered(f"{theirs_block}.attention.self.relative_position_index")
    assert values(from_transformers({f"swin.{name}": tensor for name, tensor in (theirs | index).items()})) == values(ours)


def test_query_key_and_value_are_split_for_transformers() -> None:
    theirs = to_transformers({"blocks.11.attn.qkv.weight": torch.arange(6).view(6, 1), "layers.1.blocks.0.attn.qkv.bias": torch.arange(6)})
    layer, stage = "encoder.layer.11.attention.attention", "encoder.layers.1.blocks.0.attention.self"
    assert {name: tensor.flatten().tolist() for name, tensor in theirs.items()} == {
        f"{layer}.query.weight": [0, 1], f"{layer}.key.weight": [2, 3], f"{layer}.value.weight": [4, 5],
        f"{stage}.query.bias": [0, 1], f"{stage}.key.bias": [2, 3], f"{stage}.value.bias": [4, 5],
    }  # fmt: skip


def test_official_names_there_and_back() -> None:
    ours = numbered("layers.1.downsample.norm.bias", "layers.3.downsample.reduction.weight", "layers.3.blocks.0.norm1.bias", "norm.bias")
    official = to_official(ours)
    assert list(official)[:2] == ["layers.0.downsample.norm.bias", "layers.2.downsample.reduction.weight"]
    assert values(from_official(official)) == values(ours)
