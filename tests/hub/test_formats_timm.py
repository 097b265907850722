"""timm and transformers open the folder that we write, and give our tokens: a ViT's to the bit, a Swin's but for its eps."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.formats.official import write_official
from ibot_hub.formats.timm import timm_config, timm_deviation, write_timm
from ibot_hub.formats.transformers import write_transformers
from ibot_hub.images import ImageTransform
from ibot_hub.loading import load
from ibot_hub.model import Card, Model
from ibot_hub.vit import ViT

SWINS = ["swin_micro_w7_checkpoint.pth", "swin_micro_w14_checkpoint_teacher.pth"]

# one process for all that needs transformers, whose import takes seconds
THERE = """
import sys, warnings
warnings.simplefilter("error")
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline
from ibot_hub import load

folder, photo = sys.argv[1:]
ours = load(folder)
theirs = AutoModel.from_pretrained(folder).eval()
image = Image.open(photo).convert("RGB")
pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
levels = (pixels - ours.transform(image)).abs().max().item() * 255 * max(ours.transform.std)
assert levels < 2.1, levels  # Pillow's bicubic and torch's
with torch.no_grad():
    answer, tokens = theirs(pixel_values=pixels), ours(pixels)
differences = (answer.pooler_output - tokens.cls).abs().max(), (answer.last_hidden_state[:, 1:] - tokens.patches.flatten(1, 2)).abs().max()
assert differences == (0, 0), differences
piped = torch.tensor(pipeline("image-feature-extraction", model=folder)(image))
assert torch.equal(piped, answer.last_hidden_state)
print(type(theirs).__name__)
"""


def written(model: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_timm(model, folder)
    return folder


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("network", ["teacher", "student"])
@torch.no_grad()
def test_a_vit_with_its_head_comes_back_bit_for_bit(golden: Path, tmp_path: Path, images: torch.Tensor, network: str) -> None:
    ours = load(golden / "vit_micro_checkpoint.pth", network)
    ours.transform = replace(ours.transform, mean=(0.1, 0.2, 0.3))
    again = load(written(ours, tmp_path), head=True)
    tokens = ours(images)
    assert torch.equal(again(images).patches, tokens.patches)
    assert ours.head is not None
    assert again.head is not None
    assert torch.equal(again.head(tokens).patches, ours.head(tokens).patches)
    assert torch.equal(again.head(tokens).cls, ours.head(tokens).cls)
    assert (again.card.network, again.transform) == (network, ours.transform)
    assert (again.mask_token is not None) == (network == "student")
    assert again.mask_token is None or torch.equal(again.mask_token, ours.mask_token)  # type: ignore[arg-type]
    twin = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(twin.forward_features(images), torch.cat([tokens.cls[:, None], tokens.patches.flatten(1, 2)], 1))
    assert torch.equal(twin(images), tokens.cls)
    assert twin.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert timm_deviation(ours, tmp_path) == 0


def test_transformers_opens_it_too(tmp_path: Path, photos: Path) -> None:
    folder = written(load("tiny", head=True), tmp_path / "tiny")
    command = [sys.executable, "-c", THERE, str(folder), str(photos / "coffee.jpg")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "TimmWrapperModel", ended.stderr


@pytest.mark.parametrize("file", SWINS)
@torch.no_grad()
def test_a_swin_differs_by_its_eps_alone(golden: Path, tmp_path: Path, images: torch.Tensor, file: str) -> None:
    ours = load(golden / file)
    assert 1e-6 < timm_deviation(ours, written(ours, tmp_path)) < 1e-3
    twin = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for module in twin.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    torch.testing.assert_close(twin.forward_features(images), ours(images).patches, rtol=0, atol=1e-6)
    assert torch.equal(load(tmp_path)(images).patches, ours(images).patches)


def test_the_file_of_timm_is_plain(golden: Path, tmp_path: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth", "student")
    written(model, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.backbone.state_dict().keys()
    assert not {"num_classes", "global_pool", "in_chans"} & set(json.loads((tmp_path / "config.json").read_text())["model_args"])
    (tmp_path / "ibot.safetensors").unlink()
    alone = load(tmp_path)
    assert (alone.head, alone.mask_token, alone.card.network, alone.transform) == (None, None, None, model.transform)


@pytest.mark.parametrize(
    ("arch", "architecture"),
    [("ViT-L/16", "vit_large_patch16_224"), ("ViT-128x2/16", "vit_base_patch16_224"), ("ViT-S/8", "vit_small_patch16_224")],
)
def test_architectures(golden: Path, arch: str, architecture: str) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    model.card = replace(model.card, arch=arch)
    assert timm_config(model)["architecture"] == architecture
    assert timm_config(load(golden / SWINS[1]))["architecture"] == "swin_tiny_patch4_window7_224"


@torch.no_grad()
def test_layer_scale_and_squashing_are_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = ViT(img_size=64, patch_size=16, embed_dim=64, depth=2, num_heads=1, layer_scale=True).eval()
    for name, parameter in backbone.named_parameters():
        if "gamma" in name:
            parameter.uniform_(0.5, 2)
    model = Model(backbone, None, None, ImageTransform(64, "squash"), Card("mine", "ViT-64x2/16", None))
    twin = timm.create_model(f"local-dir:{written(model, tmp_path)}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(twin.forward_features(images)[:, 1:], backbone(images).patches.flatten(1, 2))
    (squash, *_) = timm.data.create_transform(**timm.data.resolve_model_data_config(twin), is_training=False).transforms
    assert squash.size == (64, 64)
    again = load(tmp_path)
    assert (again.transform, again.backbone.layer_scale) == (model.transform, True)
    (tmp_path / "ibot.safetensors").unlink()
    assert load(tmp_path).transform == model.transform
    for write in (write_transformers, write_official):
        with pytest.raises(UsageError, match="LayerScale, which this model has; take --format timm"):
            write(model, tmp_path)


def test_another_eps_cannot_be_told(golden: Path, tmp_path: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    model.backbone.norm.eps = 1e-12
    with pytest.raises(UsageError, match="eps 1e-06, this model 1e-12; export it to transformers"):
        write_timm(model, tmp_path)


def test_extras_of_someone_else_are_refused(golden: Path, tmp_path: Path) -> None:
    written(load(golden / "vit_micro_checkpoint.pth"), tmp_path)
    (tmp_path / "ibot.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"ibot\.safetensors is not what ibot-hub writes beside another library's model"):
        load(tmp_path)
