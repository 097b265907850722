"""Packed crops against the same crops one size at a time."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

import ibot_training.packing
from ibot_training.packing import Layout, PackedBlock, attend

GROUPS = ((4, 5), (3, 2), (1, 10))  # crops, tokens
LAYOUT = Layout(GROUPS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def places() -> list[tuple[int, int, int]]:
    """(crop, token, row) of every token."""
    every, row, first = [], 0, 0
    for crops, tokens in GROUPS:
        for crop in range(crops):
            for token in range(tokens):
                every.append((first + crop, token, row))
                row += 1
        first += crops
    return every


def test_rows_of_cls_and_of_patches() -> None:
    device = torch.device("cpu")
    assert LAYOUT.first_rows(device).tolist() == [row for _, token, row in places() if token == 0]
    patches = [row for _, token, row in places() if token > 0]
    assert LAYOUT.patch_rows(torch.arange(len(patches))).tolist() == patches
    some = torch.tensor([27, 0, 15, 16, 18, 19, 3, 4])  # in any order, both sides of each border
    assert LAYOUT.patch_rows(some).tolist() == [patches[place] for place in some.tolist()]
    assert LAYOUT.patch_rows(some[:0]).shape == (0,)


def test_a_value_for_each_token_of_a_crop() -> None:
    values = torch.arange(8.0)
    assert LAYOUT.spread(values).tolist() == [[float(crop)] for crop, _, _ in places()]


def blocks() -> tuple[PackedBlock, Block]:
    """Ours and timm's with the same weights, none of which is 0 or 1."""
    ours, timm = PackedBlock(12, 3, qkv_bias=True), Block(12, 3, qkv_bias=True)
    with torch.no_grad():
        for index, parameter in enumerate(ours.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=index) * 0.5)
    timm.load_state_dict(ours.state_dict())
    return ours, timm


@pytest.mark.parametrize("plain_tokens", [512, 4, 0])  # 4: groups of 2 tokens plainly, the others by the fused kernel
@pytest.mark.parametrize("groups", [GROUPS, GROUPS[:1]])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_packed_block_is_timm_s_on_each_crop(
    monkeypatch: pytest.MonkeyPatch, plain_tokens: int, groups: tuple[tuple[int, int], ...], scaled: bool
) -> None:
    """Answers and gradients, with and without factors of the branches."""
    monkeypatch.setattr(ibot_training.packing, "PLAIN_TOKENS", plain_tokens)
    ours, timm = blocks()
    layout = Layout(groups)
    x, weights = normal(sum(crops * tokens for crops, tokens in groups), 12), normal(1, 12, seed=9)
    crops_in_all = sum(crops for crops, _ in groups)
    scales = normal(2, crops_in_all, seed=5) if scaled else None
    packed, apart = x.clone().requires_grad_(), x.clone().requires_grad_()
    answer = ours(packed, layout, scales)

    expected, first, crop = [], 0, 0
    for crops, tokens in groups:
        for _ in range(crops):
            alone = apart[first : first + tokens][None]
            if scales is None:
                expected.append(timm(alone)[0])
            else:
                middle = alone + scales[0, crop] * timm.attn(timm.norm1(alone))
                expected.append((middle + scales[1, crop] * timm.mlp(timm.norm2(middle)))[0])
            first, crop = first + tokens, crop + 1
    torch.testing.assert_close(answer, torch.cat(expected), rtol=1e-5, atol=1e-5)
    (answer * weights).sum().backward()
    (torch.cat(expected) * weights).sum().backward()
    torch.testing.assert_close(packed.grad, apart.grad, rtol=1e-4, atol=1e-4)
    for (name, one), other in zip(ours.named_parameters(), timm.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_without_a_layout_it_is_timm_s() -> None:
    ours, timm = blocks()
    x = normal(2, 5, 12)
    assert torch.equal(ours(x), timm(x))


@pytest.mark.parametrize("plain_tokens", [512, 6])
def test_attention_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, plain_tokens: int) -> None:
    monkeypatch.setattr(ibot_training.packing, "PLAIN_TOKENS", plain_tokens)
    inputs = [3 * normal(2, 3, 7, 8, seed=seed) for seed in range(3)]
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    one, other = attend(*ours), F.scaled_dot_product_attention(*theirs)
    torch.testing.assert_close(one, other)
    weights = normal(*one.shape, seed=4)
    for x, y in zip(torch.autograd.grad(one, ours, weights), torch.autograd.grad(other, theirs, weights), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_long_rows_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their attention matrices would fill the memory."""
    seen: list[int] = []

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append(query.shape[2])
        return query

    monkeypatch.setattr(ibot_training.packing.F, "scaled_dot_product_attention", fused)
    for tokens in (512, 513):
        attend(*(torch.zeros(1, 1, tokens, 2),) * 3)
    assert seen == [513]


def test_attention_keeps_half_precision() -> None:
    query, key, value = (normal(1, 2, 9, 8, seed=seed).bfloat16() for seed in range(3))
    answer = attend(query, key, value)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), F.scaled_dot_product_attention(query.float(), key.float(), value.float()), rtol=0, atol=0.03)
