"""Schedules at their ends and corners, and what AdamW, clipping and the slow average do to each tensor."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibot_training.networks import Learner
from ibot_training.optim import build_optimiser, clip_gradients, cosine, follow, pairs, ramped, schedules, set_rates
from ibot_training.recipe import Loss, Masks, Network, Optimiser, ProjectionHead

VIT = Network(image_size=32, embed_dim=64, depths=(1,), heads=(1,))
SWIN = Network(arch="swin", patch_size=4, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1))
HEAD = {"patterns": 8, "patch_patterns": 8, "hidden_dim": 16, "bottleneck_dim": 4}


def test_the_paper_s_run() -> None:
    """ViT-S/16, 800 epochs of 1251 steps: every corner by the formulas of the official code."""
    steps, per_epoch = 800 * 1251, 1251
    plan = schedules(Optimiser(), Loss(), Masks(), per_epoch)
    assert [len(row) for row in (plan.lr, plan.weight_decay, plan.momentum)] == [steps] * 3
    assert [len(row) for row in (plan.cls_temperature, plan.patch_temperature)] == [800] * 2
    warm, peak = 10 * per_epoch, 5e-4 * 1024 / 256
    assert plan.lr[0] == 0
    assert plan.lr[1] == pytest.approx(peak / (warm - 1))
    assert plan.lr[warm - 1] == plan.lr[warm] == peak  # the ramp and the cosine both begin or end there
    assert plan.lr[(warm + steps) // 2] == pytest.approx((peak + 1e-6) / 2, rel=1e-3)
    assert 1e-6 < plan.lr[-1] < 1e-6 + 1e-11  # never quite there
    last = 1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * (1 - 1 / (steps - warm)))) / 2
    assert plan.lr[-1] == pytest.approx(last, rel=1e-12)
    assert (plan.weight_decay[0], plan.momentum[0]) == pytest.approx((0.04, 0.996))
    assert plan.weight_decay[steps // 2] == pytest.approx(0.22)
    assert plan.momentum[steps // 2] == pytest.approx(0.998)
    assert 0.4 - 1e-11 < plan.weight_decay[-1] < 0.4
    assert 1 - 1e-13 < plan.momentum[-1] < 1
    for row in (plan.cls_temperature, plan.patch_temperature):
        assert row[:30].tolist() == pytest.approx([0.04 + 0.03 * epoch / 29 for epoch in range(30)])
        assert set(row[29:]) == {0.07}


def test_patches_wait_for_masks_before_they_warm_up() -> None:
    plan = schedules(Optimiser(epochs=300), Loss(patch_temperature=0.06), Masks(start_epoch=50), 2)
    assert plan.cls_temperature[:30].tolist() == pytest.approx(np.linspace(0.04, 0.07, 30).tolist())
    assert set(plan.patch_temperature[:51]) == {0.04}
    assert plan.patch_temperature[51] == pytest.approx(0.04 + 0.02 / 29)
    assert plan.patch_temperature[50:80].tolist() == pytest.approx(np.linspace(0.04, 0.06, 30).tolist())
    assert set(plan.patch_temperature[79:]) == {0.06}
    assert len(plan.patch_temperature) == 300


@pytest.mark.parametrize("epochs", [1, 3, 29, 31, 60])
def test_short_runs_cut_their_schedules(epochs: int) -> None:
    plan = schedules(Optimiser(epochs=epochs, warmup_epochs=10), Loss(), Masks(start_epoch=20), 4)
    whole = schedules(Optimiser(epochs=400, warmup_epochs=10), Loss(), Masks(start_epoch=20), 4)
    assert [len(row) for row in (plan.lr, plan.weight_decay, plan.momentum)] == [4 * epochs] * 3
    assert np.array_equal(plan.cls_temperature, whole.cls_temperature[:epochs])
    assert np.array_equal(plan.patch_temperature, whole.patch_temperature[:epochs])
    warm = min(4 * epochs, 40)
    assert plan.lr[:warm].tolist() == pytest.approx(np.linspace(0, 2e-3, warm).tolist())
    assert len(plan.lr) == warm or plan.lr[warm] == 2e-3


def test_without_warm_up() -> None:
    assert ramped(0.04, 0.07, 3, 0).tolist() == [0.07] * 3
    assert ramped(0.04, 0.07, 3, 1).tolist() == [0.04, 0.07, 0.07]
    assert cosine(1.0, 0.0, 4).tolist() == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert cosine(1.0, 0.0, 3, 1).tolist() == [0, 1, 0.5]
    assert cosine(1.0, 0.0, 2, 2).tolist() == [0, 1]


def groups_of(network: Network, **head: Any) -> tuple[set[str], set[str]]:
    """Names that decay, and names that do not."""
    learner = Learner(network, ProjectionHead(**HEAD | head), student=True)
    names = {parameter: name for name, parameter in learner.named_parameters()}
    first, second = build_optimiser(learner).param_groups
    return {names[parameter] for parameter in first["params"]}, {names[parameter] for parameter in second["params"]}


def test_what_decays() -> None:
    decayed, plain = groups_of(VIT)
    assert decayed == {
        "mask_token", "backbone.pos_embed", "backbone.cls_token", "backbone.patch_embed.proj.weight",
        *(f"backbone.blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
        *(f"head.mlp.{index}.weight" for index in (0, 2, 4)), "head.last_layer.weight_v", "head.last_layer.weight_g",
    }  # fmt: skip
    assert plain == {
        "backbone.patch_embed.proj.bias", "backbone.norm.weight", "backbone.norm.bias",
        *(f"backbone.blocks.0.{name}.bias" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")),
        "backbone.blocks.0.norm1.weight", "backbone.blocks.0.norm2.weight", *(f"head.mlp.{index}.bias" for index in (0, 2, 4)),
    }  # fmt: skip


def test_what_decays_in_a_swin() -> None:
    decayed, plain = groups_of(SWIN)
    assert {name for name in decayed if "relative" in name} == {
        f"backbone.layers.{stage}.blocks.0.attn.relative_position_bias_table" for stage in range(4)
    }
    assert "backbone.layers.1.downsample.reduction.weight" in decayed
    assert {"backbone.patch_embed.norm.weight", "backbone.layers.1.downsample.norm.bias"} <= plain
    assert not decayed & plain


def test_lengths_that_are_not_learned_are_not_trained() -> None:
    decayed, plain = groups_of(VIT, learn_lengths=False, sharing="separate")
    assert not [name for name in decayed | plain if name.endswith("weight_g")]
    assert {"head.last_layer.weight_v", "head.last_layer2.weight_v"} <= decayed
    decayed, _ = groups_of(VIT, sharing="separate")
    assert {"head.last_layer.weight_g", "head.last_layer2.weight_g"} <= decayed


def test_a_teacher_is_not_trained() -> None:
    teacher = Learner(VIT, ProjectionHead(**HEAD), student=False)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(3)


def test_steps_are_those_of_plain_adamw() -> None:
    """Three steps with changing rates; only group 0 decays."""
    torch.manual_seed(0)
    ours = Mixed()
    plain = copy.deepcopy(ours)
    optimiser = build_optimiser(ours)
    groups = [{"params": [plain.linear.weight]}, {"params": [plain.linear.bias, plain.norm.weight, plain.norm.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=False)
    for step in range(3):
        lr, decay = 0.1 / (step + 1), 0.5 * (step + 1)
        set_rates(optimiser, lr, decay)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.param_groups[0]["weight_decay"] = decay
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        optimiser.step()
        reference.step()
    for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=name)


def gradients() -> list[Tensor]:
    """Of norms 5, 0.5, 0 and 13."""
    return [torch.tensor([3.0, 4.0]), torch.tensor([[0.3], [0.4]]), torch.zeros(2), torch.tensor([5.0, 12.0, 0.0])]


def test_each_tensor_is_clipped_by_its_own_norm() -> None:
    clipped = gradients()
    clip_gradients(clipped, 3.0, each=True)
    for one, whole, factor in zip(clipped, gradients(), (3 / (5 + 1e-6), 1, 1, 3 / (13 + 1e-6)), strict=True):
        torch.testing.assert_close(one, whole * factor, rtol=1e-6, atol=0)


def test_all_tensors_are_clipped_by_their_common_norm() -> None:
    norm = math.sqrt(25 + 0.25 + 169)
    for limit, factor in ((3.0, 3 / (norm + 1e-6)), (14.0, 1.0)):
        clipped = gradients()
        clip_gradients(clipped, limit, each=False)
        for one, whole in zip(clipped, gradients(), strict=True):
            torch.testing.assert_close(one, whole * factor, rtol=1e-6, atol=0)


def test_nothing_to_clip() -> None:
    clip_gradients([], 3.0, each=True)
    clip_gradients([], 3.0, each=False)


def test_the_teacher_follows_slowly_in_place() -> None:
    slow, fast = [torch.tensor([1.0, 2.0]), torch.ones(1, 1)], [torch.tensor([3.0, 0.0]), torch.zeros(1, 1)]
    kept = slow[0]
    follow(slow, iter(fast), 0.9)
    assert kept is slow[0]
    assert kept.tolist() == pytest.approx([1.2, 1.8])
    assert slow[1].tolist() == [[pytest.approx(0.9)]]
    assert fast[0].tolist() == [3.0, 0.0]
    follow(slow, fast, 1.0)
    assert kept.tolist() == pytest.approx([1.2, 1.8])


def test_pairs_are_what_both_have_by_name() -> None:
    a, b, c, d = (torch.tensor(float(number)) for number in range(4))
    slow, fast = pairs({"x": a, "y": b}, {"y": c, "mask_token": d, "x": d})
    assert [tensor.item() for tensor in slow] == [0, 1]
    assert [tensor.item() for tensor in fast] == [3, 2]
