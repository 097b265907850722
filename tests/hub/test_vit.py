"""The ViT: its position table, its masks, and that it still is timm's."""

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn import functional as F

import ibot_hub.vit
from ibot_hub.vit import ViT, attend, positions


def small() -> ViT:
    torch.manual_seed(0)
    return ViT(img_size=64, patch_size=8, embed_dim=64, depth=2, num_heads=1).eval()


def table(side: int) -> torch.Tensor:
    return torch.randn(1, 1 + side * side, 5, generator=torch.Generator().manual_seed(0))


def test_the_table_is_sampled_with_the_given_factor() -> None:
    """Against a bicubic kernel written out: step 14 / (n + 0.1), a = -0.75, half-pixel centres, clamped at the border."""
    rows, columns, side = 6, 9, 14
    stored = table(side)

    def weights(count: int) -> torch.Tensor:
        matrix = torch.zeros(count, side, dtype=torch.float64)
        for index in range(count):
            place = (index + 0.5) * side / (count + 0.1) - 0.5
            for neighbour in range(int(place // 1) - 1, int(place // 1) + 3):
                x = abs(place - neighbour)
                near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
                matrix[index, min(max(neighbour, 0), side - 1)] += near if x <= 1 else far
        return matrix

    grid = stored[0, 1:].double().reshape(side, side, 5)
    expected = torch.einsum("ri,cj,ijd->rcd", weights(rows), weights(columns), grid).reshape(-1, 5)
    ours = positions(stored, rows, columns, unchanged=False)
    assert (ours[0, 1:] - expected).abs().max() < 1e-5
    assert torch.equal(ours[:, 0], stored[:, 0])
    by_size = F.interpolate(stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2), (rows, columns), mode="bicubic")
    assert (ours[0, 1:] - by_size[0].flatten(1).T).abs().max() > 1e-3


def test_the_table_stays_for_its_own_square() -> None:
    assert positions(table(14), 14, 14, unchanged=True) is not None
    assert torch.equal(positions(table(14), 14, 14, unchanged=True), table(14))
    assert not torch.equal(positions(table(14), 14, 14, unchanged=False), table(14))
    assert positions(table(4), 2, 8, unchanged=True).shape == (1, 17, 5)


def test_it_is_a_timm_model() -> None:
    ours = small()
    timm = VisionTransformer(img_size=64, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0).eval()
    timm.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs, tokens = timm.forward_features(images), ours(images)
    assert torch.allclose(tokens.cls, theirs[:, 0], atol=1e-5)
    assert torch.allclose(tokens.patches.flatten(1, 2), theirs[:, 1:], atol=1e-5)
    assert torch.equal(ours.forward_features(images), ours.forward_features(images))


def test_a_hidden_patch_says_nothing_of_its_pixels() -> None:
    model, token = small(), torch.randn(1, 64)
    images = torch.randn(1, 3, 64, 64)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2, 5] = True
    changed = images.clone()
    changed[:, :, 16:24, 40:48] += 1
    with torch.no_grad():
        assert torch.equal(model(images, mask, token).patches, model(changed, mask, token).patches)
        assert not torch.equal(model(images).patches, model(changed).patches)
    with pytest.raises(ValueError, match="mask token"):
        model(images, mask)


def test_half_precision_keeps_its_type() -> None:
    answer = small().bfloat16()(torch.randn(1, 3, 48, 80, dtype=torch.bfloat16))
    assert answer.patches.dtype == answer.cls.dtype == torch.bfloat16
    assert answer.patches.shape == (1, 6, 10, 64)


def test_initial_weights_are_the_official_ones() -> None:
    model = ViT(img_size=224, patch_size=16, embed_dim=192, depth=2, num_heads=3, drop_path_rate=0.1)
    for weight in (model.blocks[0].attn.qkv.weight, model.blocks[1].mlp.fc2.weight, model.pos_embed):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert not model.blocks[0].attn.qkv.bias.any()
    assert model.patch_embed.proj.weight.abs().max().item() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.01)  # PyTorch's own default
    assert isinstance(model.blocks[0].drop_path1, torch.nn.Identity)
    assert model.blocks[1].drop_path1.drop_prob == 0.1


def test_blocks_are_of_the_class_asked_for() -> None:
    class Doubled(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    shape = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    torch.manual_seed(0)
    ours = ViT(**shape, block_fn=Doubled)
    assert [type(block) for block in ours.blocks] == [Doubled, Doubled]
    plain = small()
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in plain.state_dict().items())  # names and draws stay
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens, height, width = plain.embed(images)
        for block in plain.blocks:
            tokens = 2 * block(tokens)
        assert torch.equal(ours(images).patches, plain.norm(tokens)[:, 1:].unflatten(1, (height, width)))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("plain_tokens", [512, 6])
def test_attention_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, plain_tokens: int) -> None:
    monkeypatch.setattr(ibot_hub.vit, "PLAIN_TOKENS", plain_tokens)
    inputs = [3 * normal(2, 3, 7, 8, seed=seed) for seed in range(3)]
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    one, other = attend(*ours, training=True), F.scaled_dot_product_attention(*theirs)
    torch.testing.assert_close(one, other)
    weights = normal(*one.shape, seed=4)
    for x, y in zip(torch.autograd.grad(one, ours, weights), torch.autograd.grad(other, theirs, weights), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_short_rows_are_computed_plainly_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, and in training; the matrices of long rows would fill the memory."""
    seen: list[tuple[int, torch.dtype]] = []

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append((query.shape[2], query.dtype))
        return query

    monkeypatch.setattr(ibot_hub.vit.F, "scaled_dot_product_attention", fused)
    for tokens in (512, 513):
        for dtype in (torch.bfloat16, torch.float32):
            for training in (False, True):
                attend(*(torch.zeros(1, 1, tokens, 2, dtype=dtype),) * 3, training=training)
    assert seen == [(512, torch.float32)] + [(513, dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)]


def test_attention_keeps_half_precision() -> None:
    query, key, value = (normal(1, 2, 9, 8, seed=seed).bfloat16() for seed in range(3))
    answer = attend(query, key, value)
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), F.scaled_dot_product_attention(query.float(), key.float(), value.float()), rtol=0, atol=0.03)
