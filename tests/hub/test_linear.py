"""Linear layers in the order of a CPU's bfloat16 products."""

import copy
from functools import partial

import pytest
import torch
from timm.layers import Mlp
from torch import nn

from ibot_hub import linear
from ibot_hub.attention import cls_attention
from ibot_hub.devices import placed
from ibot_hub.linear import Reordered, reorder
from ibot_hub.vit import ViT

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def network(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Sequential(nn.Linear(96, 32, bias=False))).to(dtype)


def test_answers_are_those_of_a_linear_layer() -> None:
    plain, ours = network(), network()
    reorder(ours)
    assert [type(layer) for layer in (ours[0], ours[2][0])] == [Reordered, Reordered]
    for rows in ((1,), (8, 197), (3, 5, 2)):
        x = torch.randn(*rows, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
        with torch.inference_mode():
            answer, expected = ours(x), plain(x)
        assert (answer.shape, answer.dtype) == (expected.shape, torch.bfloat16)
        reference = network(torch.float32)  # the same weights, as bfloat16 rounds them
        reference.load_state_dict({name: weight.float() for name, weight in plain.state_dict().items()})
        apart = (answer.float() - reference(x.float())).abs().max()
        assert apart <= 1.5 * (expected.float() - reference(x.float())).abs().max() + 1e-3


def test_gelu_goes_with_the_product_that_it_follows() -> None:
    torch.manual_seed(0)
    plain = Mlp(32, 64).bfloat16()
    ours = copy.deepcopy(plain)
    reorder(ours)
    assert (ours.fc1.gelu, ours.fc2.gelu, type(ours.act)) == (True, False, nn.Identity)
    x = torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(ours(x).float(), plain.float()(x.float()), rtol=0, atol=0.01)
    tanh = Mlp(32, 64, act_layer=partial(nn.GELU, approximate="tanh")).bfloat16()
    reorder(tanh)
    assert (tanh.fc1.gelu, type(tanh.act)) == (False, nn.GELU)


def test_other_precisions_and_other_layers_stay() -> None:
    class Scaled(nn.Linear):
        pass

    kept = nn.Sequential(nn.Linear(4, 4), Scaled(4, 4).bfloat16())
    reorder(kept)
    assert [type(layer) for layer in kept] == [nn.Linear, Scaled]


def test_a_torch_without_these_operators_computes_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_OPERATORS", object())
    ours = network()
    reorder(ours)
    assert type(ours[0]) is nn.Linear


def test_weights_can_still_be_read() -> None:
    """Attention maps take queries and keys off them."""
    plain = ViT(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1).eval()
    ours = placed(plain, torch.device("cpu"), torch.bfloat16)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, expected = cls_attention(ours, images.bfloat16(), (-1,))[0], cls_attention(plain, images, (-1,))[0]
    torch.testing.assert_close(maps, expected, rtol=0, atol=0.01)
    assert torch.equal(ours.blocks[0].attn.qkv.weight, plain.blocks[0].attn.qkv.weight.bfloat16())
    with pytest.raises(ValueError, match="cannot be placed again"):
        placed(ours, torch.device("cpu"), torch.float32)
