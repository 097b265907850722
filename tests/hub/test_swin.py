"""The Swin: its windows, its masks, and that it still is timm's. The official numbers are in test_backbones.py."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from ibot_hub.swin import Swin, windowed

SHAPE = {"patch_size": 4, "window_size": 7, "embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


def small(**changes: object) -> Swin:
    torch.manual_seed(0)
    return Swin(**(SHAPE | changes)).eval()  # type: ignore[arg-type]


def test_it_is_a_timm_model_at_224_pixels() -> None:
    ours = small()
    timm = SwinTransformer(img_size=224, num_classes=0, norm_layer=lambda *a, **k: nn.LayerNorm(*a, eps=1e-6, **k), **SHAPE).eval()  # type: ignore[arg-type]
    timm.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(ours(images).patches, timm.forward_features(images), atol=1e-5)


def test_windows_are_those_of_224_pixels() -> None:
    windows = [[(block.window_size[0], block.shift_size[0]) for block in stage.blocks] for stage in small(window_size=14).layers]
    assert windows == [[(14, 0), (14, 7)], [(14, 0), (14, 7)], [(14, 0), (14, 0)], [(7, 0), (7, 0)]]


def test_the_cls_is_the_mean_of_the_patches() -> None:
    with torch.no_grad():
        tokens = small()(torch.randn(2, 3, 96, 160))
    assert tokens.patches.shape == (2, 3, 5, 128)
    assert torch.allclose(tokens.cls, tokens.patches.mean(dim=(1, 2)))


def test_a_hidden_cell_says_nothing_of_its_pixels() -> None:
    model, token = small(), torch.randn(1, 16)
    images = torch.randn(1, 3, 96, 96)
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    changed = images.clone()
    changed[:, :, 32:64, 64:96] += 1
    with torch.no_grad():
        assert torch.equal(model(images, mask, token).patches, model(changed, mask, token).patches)
        assert not torch.equal(model(images).patches, model(changed).patches)
    with pytest.raises(ValueError, match="mask token"):
        model(images, mask)


@pytest.mark.parametrize("shifted", [0, 1])
def test_factors_of_the_branches_are_each_image_s_own(shifted: int) -> None:
    """They stand in for the block's stochastic depth, so they are tried against a block that has them built in."""

    class Factor(nn.Module):
        def __init__(self, values: torch.Tensor) -> None:
            super().__init__()
            self.values = values

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([value * one for value, one in zip(self.values, x, strict=True)])

    block = small().layers[0].blocks[shifted]
    x, scales = torch.randn(3, 10, 9, 16), torch.tensor([[0.0, 1.25, 1.0], [1.25, 0.0, 1.0]])
    with torch.no_grad():
        ours, plain = windowed(block, x, scales), windowed(block, x)
        block.drop_path1, block.drop_path2 = Factor(scales[0]), Factor(scales[1])
        expected = windowed(block, x)
    assert torch.equal(ours[2], plain[2])
    assert torch.allclose(ours, expected, atol=1e-6)
    assert not torch.allclose(ours[:2], plain[:2], atol=1e-3)
    with torch.no_grad():
        assert torch.equal(windowed(block, x, torch.zeros(2, 3)), x)
