"""The Swin: its windows, its masks, and that it still is timm's. The official numbers are in test_backbones.py."""

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from ibot_hub.swin import Swin

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
