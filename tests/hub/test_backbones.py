"""Parity with the official code, to its stated tolerances: tokens, earlier blocks, masks, logits, attention."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ibot_hub import weights
from ibot_hub.attention import cls_attention
from ibot_hub.backbones import Backbone, arch_name, build_backbone, build_head
from ibot_hub.errors import WeightsError
from ibot_hub.origin import Origin
from ibot_hub.tokens import Tokens

VIT = ("vit_micro_checkpoint.pth", "vit_micro_outputs.safetensors", ("224x224", "96x96", "160x224"))
SWIN7 = ("swin_micro_w7_checkpoint.pth", "swin_micro_w7_outputs.safetensors", ("224x224", "96x96"))
SWIN14 = ("swin_micro_w14_checkpoint_teacher.pth", "swin_micro_w14_outputs.safetensors", ("224x224", "96x96"))
CASES = [(checkpoint, outputs, size) for checkpoint, outputs, sizes in (VIT, SWIN7, SWIN14) for size in sizes]
WITH_HEAD = [case for case in CASES if case[0] != SWIN14[0]]


def built(path: Path, network: str = "teacher") -> tuple[Backbone, weights.Weights]:
    tensors = weights.read(path, network)
    return build_backbone(tensors, path).eval(), tensors


def flat(tokens: Tokens) -> Tensor:
    """[B, 1 + N, D], as the official code has it."""
    return torch.cat([tokens.cls[:, None], tokens.patches.flatten(1, 2)], dim=1)


def difference(ours: Tensor, official: Tensor) -> float:
    assert ours.shape == official.shape
    return (ours - official).abs().max().item()


@pytest.mark.parametrize(("checkpoint", "outputs", "size"), CASES)
@torch.no_grad()
def test_tokens(golden: Path, checkpoint: str, outputs: str, size: str) -> None:
    official = load_file(golden / outputs)
    backbone, _ = built(golden / checkpoint)
    assert difference(flat(backbone(official[f"{size}/input"].float())), official[f"{size}/tokens"]) <= 1e-5


@pytest.mark.parametrize(("checkpoint", "outputs", "size"), WITH_HEAD)
@torch.no_grad()
def test_logits(golden: Path, checkpoint: str, outputs: str, size: str) -> None:
    official = load_file(golden / outputs)
    backbone, tensors = built(golden / checkpoint)
    head = build_head(tensors, backbone, golden / checkpoint)
    assert head is not None
    logits = head(backbone(official[f"{size}/input"].float()))
    assert difference(logits.cls, official[f"{size}/cls_logits"]) <= 1e-5
    assert difference(logits.patches.flatten(1, 2), official[f"{size}/patch_logits"]) <= 1e-5


@pytest.mark.parametrize(("checkpoint", "outputs", "size"), WITH_HEAD)
@torch.no_grad()
def test_masked_student(golden: Path, checkpoint: str, outputs: str, size: str) -> None:
    official = load_file(golden / outputs)
    student, tensors = built(golden / checkpoint, "student")
    mask = official[f"{size}/mask"].bool()
    answer = flat(student(official[f"{size}/input"].float(), mask, tensors.mask_token))
    assert mask[0].any()
    assert not mask[1].any()
    assert difference(answer, official[f"{size}/student_tokens_masked"]) <= 1e-5


@pytest.mark.parametrize("size", VIT[2])
@torch.no_grad()
def test_last_layers_and_attention(golden: Path, size: str) -> None:
    official = load_file(golden / VIT[1])
    backbone, _ = built(golden / VIT[0])
    images = official[f"{size}/input"].float()
    layers = backbone.last_layers(images, 2)
    assert difference(flat(layers[0]), official[f"{size}/block_-2"]) <= 1e-5
    assert difference(flat(layers[1]), official[f"{size}/tokens"]) <= 1e-5
    attention = cls_attention(backbone, images, (-1,))[0]
    assert difference(attention.flatten(2), official[f"{size}/attention_cls"]) <= 1e-6


@torch.no_grad()
def test_tensors_are_cut_at_the_right_and_bottom(golden: Path) -> None:
    backbone, _ = built(golden / VIT[0])
    images = torch.randn(1, 3, 239, 170, generator=torch.Generator().manual_seed(0))
    assert torch.equal(backbone(images).patches, backbone(images[:, :, :224, :160]).patches)
    assert backbone(images).patches.shape == (1, 14, 10, 128)


@torch.no_grad()
def test_the_table_is_left_alone_only_for_square_images_of_its_own_count(golden: Path) -> None:
    backbone, _ = built(golden / VIT[0])
    images = torch.randn(1, 3, 224, 230, generator=torch.Generator().manual_seed(0))
    # 224 x 230 holds 14 x 14 patches too, but is not square: the official code interpolates with 14.1 / 14
    assert difference(backbone(images).patches, backbone(images[..., :224]).patches) > 1e-4


@torch.no_grad()
def test_swin_takes_any_aspect(golden: Path) -> None:
    backbone, _ = built(golden / SWIN7[0])
    images = torch.randn(1, 3, 160, 256, generator=torch.Generator().manual_seed(0))
    assert backbone(images).patches.shape == (1, 5, 8, 128)
    stages = [tokens.patches.shape[1:] for tokens in backbone.last_layers(images, 4)]
    assert stages == [(10, 16, 64), (10, 16, 64), (5, 8, 128), (5, 8, 128)]


@pytest.mark.parametrize(("checkpoint", "name"), [(VIT[0], "ViT-128x2/16"), (SWIN7[0], "Swin-16x8/7"), (SWIN14[0], "Swin-16x8/14")])
def test_architecture_is_read_off_the_tensors(golden: Path, checkpoint: str, name: str) -> None:
    assert arch_name(built(golden / checkpoint)[0]) == name


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda tensors: tensors.pop("blocks.1.norm1.weight"), "1 missing (blocks.1.norm1.weight)"),
        (lambda tensors: tensors.update({"blocks.0.gamma_1": torch.ones(128)}), "1 left over (blocks.0.gamma_1)"),
        (lambda tensors: tensors.update({"norm.bias": torch.ones(64)}), "norm.bias is (64,), should be (128,)"),
        (lambda tensors: tensors.pop("patch_embed.proj.weight"), "architecture cannot be read off"),
        (lambda tensors: tensors.update({"pos_embed": torch.ones(1, 151, 128)}), "150 patches is not square"),
        (lambda tensors: tensors.pop("pos_embed"), "neither a ViT"),
        (lambda tensors: tensors.update({"pos_embed": torch.ones(1, 197, 120)}), "a width of 120 is no multiple of 64"),
    ],
)
def test_every_difference_is_named(golden: Path, damage, said: str) -> None:  # type: ignore[no-untyped-def]
    path = golden / VIT[0]
    tensors = weights.read(path)
    backbone = dict(tensors.backbone)
    damage(backbone)
    with pytest.raises(WeightsError) as caught:
        build_backbone(weights.Weights(backbone, None, None, tensors.origin), path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@torch.no_grad()
def test_layer_scale_is_read_off_the_names(golden: Path) -> None:
    tensors = weights.read(golden / VIT[0])
    generator = torch.Generator().manual_seed(0)
    scales = {f"blocks.{block}.ls{branch}.gamma": torch.rand(128, generator=generator) for block in (0, 1) for branch in (1, 2)}
    state = {**tensors.backbone, **scales}
    ours = build_backbone(weights.Weights(state, None, None, tensors.origin), golden / VIT[0]).eval()
    theirs = VisionTransformer(embed_dim=128, depth=2, num_heads=2, init_values=1.0, num_classes=0).eval()
    theirs.load_state_dict(state)
    images = torch.randn(1, 3, 224, 224, generator=generator)
    assert difference(flat(ours(images)), theirs.forward_features(images)) == 0
    for name, said in (("blocks.1.ls2.gamma", r"1 missing \(blocks.1.ls2.gamma\)"), ("blocks.0.ls1.gamma", "3 left over")):
        odd = {key: tensor for key, tensor in state.items() if key != name}
        with pytest.raises(WeightsError, match=said):
            build_backbone(weights.Weights(odd, None, None, tensors.origin), golden / VIT[0])


def test_attention_heads_are_not_guessed_where_nobody_has_such_a_width(golden: Path) -> None:
    """A ViT-H is 1280 wide and has 16 heads of 80; 64 would make it 20."""
    huge = {name: torch.empty(1) for name in ("cls_token",)} | {
        "pos_embed": torch.empty(1, 1 + 16 * 16, 1280),
        "patch_embed.proj.weight": torch.empty(1280, 3, 14, 14),
        "blocks.0.mlp.fc1.weight": torch.empty(5120, 1280),
    }
    with pytest.raises(WeightsError, match="a width of 1280 is more than any ViT of iBOT or DINO has, so the number of attention heads"):
        build_backbone(weights.Weights(huge, None, None, Origin()), golden)


def test_registers_are_refused(golden: Path) -> None:
    tensors = weights.read(golden / VIT[0])
    odd = {**tensors.backbone, "reg_token": torch.ones(1, 4, 128)}
    with pytest.raises(WeightsError, match="is a ViT with register tokens, which ibot-hub does not compute; take the one without them"):
        build_backbone(weights.Weights(odd, None, None, tensors.origin), golden / VIT[0])


def test_a_head_for_another_backbone_is_refused(golden: Path) -> None:
    path = golden / VIT[0]
    tensors = weights.read(path)
    assert tensors.head is not None
    head = {**tensors.head, "mlp.0.weight": torch.ones(128, 64)}
    with pytest.raises(WeightsError, match="takes 64 numbers, the backbone gives 128"):
        build_head(weights.Weights(tensors.backbone, head, None, tensors.origin), build_backbone(tensors, path), path)
    del head["mlp.2.bias"]
    with pytest.raises(WeightsError, match=r"1 missing \(mlp.2.bias\)"):
        build_head(weights.Weights(tensors.backbone, head, None, tensors.origin), build_backbone(tensors, path), path)
