"""The head's arithmetic against torch's own weight norm, and its shape read off its tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from ibot_hub.head import Head, WeightNormLinear, head_like
from ibot_hub.tokens import Tokens


def small_head(patch_patterns: int | None = None) -> Head:
    torch.manual_seed(0)
    return Head(in_dim=12, patterns=7, patch_patterns=patch_patterns, hidden_dim=10, bottleneck_dim=6)


def some_tokens() -> Tokens:
    generator = torch.Generator().manual_seed(1)
    return Tokens(torch.randn(2, 12, generator=generator), torch.randn(2, 3, 4, 12, generator=generator))


def test_the_last_layer_is_weight_norm_as_torch_has_it() -> None:
    theirs = parametrizations.weight_norm(nn.Linear(6, 7, bias=False))
    ours = WeightNormLinear(6, 7)
    with torch.no_grad():
        ours.weight_v.copy_(torch.randn(7, 6)).mul_(torch.logspace(-6, 3, 7)[:, None])  # rows of any length
        ours.weight_g.copy_(torch.rand(7, 1) + 0.5)
        theirs.parametrizations.weight.original0.copy_(ours.weight_g)
        theirs.parametrizations.weight.original1.copy_(ours.weight_v)
    x = torch.randn(3, 6)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_the_paper_s_head_layer_by_layer() -> None:
    head, tokens = small_head(), some_tokens()
    x = tokens.cls
    for index in (0, 2, 4):
        x = F.linear(x, head.mlp[index].weight, head.mlp[index].bias)
        x = F.gelu(x) if index < 4 else x / x.norm(dim=-1, keepdim=True)
    rows = head.last_layer.weight_v / head.last_layer.weight_v.norm(dim=1, keepdim=True)
    assert torch.allclose(head.bottleneck(tokens.cls), x, atol=1e-6)
    assert torch.allclose(head(tokens).cls, x @ rows.T, atol=1e-6)


def test_logits_are_cosines_while_the_lengths_are_one() -> None:
    logits = small_head()(some_tokens())
    assert logits.patches.abs().max() <= 1 + 1e-6
    assert logits.patches.abs().max() > 0.1


def test_a_shared_head_treats_patches_as_it_treats_cls() -> None:
    head, tokens = small_head(), some_tokens()
    logits = head(tokens)
    assert logits.cls.shape == (2, 7)
    assert logits.patches.shape == (2, 3, 4, 7)
    assert torch.allclose(logits.patches[1, 2, 3], head.cls_logits(tokens.patches[1, 2, 3]), atol=1e-6)


def test_patches_may_have_a_layer_of_their_own() -> None:
    head, tokens = small_head(patch_patterns=5), some_tokens()
    assert head.last_layer2 is not None
    logits = head(tokens)
    assert logits.cls.shape == (2, 7)
    assert logits.patches.shape == (2, 3, 4, 5)
    assert torch.equal(logits.patches, head.last_layer2(head.bottleneck(tokens.patches)))


def test_a_new_head_starts_as_the_official_one() -> None:
    head = Head(in_dim=384, patterns=100)
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [
        (2048, 384), (2048,), (2048, 2048), (2048,), (256, 2048), (256,), (100, 1), (100, 256),
    ]  # fmt: skip
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.mlp[2].bias.any()
    assert (head.last_layer.weight_g == 1).all()
    assert head.last_layer.weight_v.abs().max().item() <= 256**-0.5  # nn.Linear's bound


@pytest.mark.parametrize("patch_patterns", [None, 5])
def test_a_head_is_made_without_memory_in_the_shape_of_its_tensors(patch_patterns: int | None) -> None:
    original, tokens = small_head(patch_patterns), some_tokens()
    tensors = original.state_dict()
    twin = head_like(tensors)
    assert {parameter.device.type for parameter in twin.parameters()} == {"meta"}
    twin.load_state_dict(tensors, assign=True)
    assert torch.equal(twin(tokens).patches, original(tokens).patches)


@pytest.mark.parametrize("name", ["mlp.0.weight", "last_layer.weight_v"])
def test_without_a_telling_tensor_there_is_no_shape(name: str) -> None:
    tensors = small_head().state_dict()
    del tensors[name]
    with pytest.raises(KeyError, match=name):
        head_like(tensors)
