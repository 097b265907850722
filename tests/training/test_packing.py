"""Packed crops against the same crops one size at a time."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor

import ibot_hub.vit
from ibot_training.packing import Layout, PackedBlock

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
    monkeypatch.setattr(ibot_hub.vit, "PLAIN_TOKENS", plain_tokens)
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
