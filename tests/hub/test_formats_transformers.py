"""transformers opens its own layout as we write it: a ViT's tokens to the bit, those of a Swin with window 7 but for two norms."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot_hub.errors import UsageError
from ibot_hub.formats.transformers import write_transformers
from ibot_hub.loading import load
from ibot_hub.options import Resize

# one process for all, because the import of transformers takes seconds
THERE = """
import json, sys, warnings
warnings.simplefilter("error")
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel
from ibot_hub import load
from ibot_hub.formats.transformers import transformers_deviation

said = []
for folder in sys.argv[2:]:
    ours, (theirs, report) = load(folder), AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    image, processor = Image.open(sys.argv[1]).convert("RGB"), AutoImageProcessor.from_pretrained(folder)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    levels = (pixels - ours.transform(image)).abs().max().item() * 255 * max(ours.transform.std)
    with torch.no_grad():
        tokens, answer = ours(pixels), theirs.eval()(pixel_values=pixels).last_hidden_state
    patches = answer[:, -tokens.patches.flatten(1, 2).shape[1] :]
    unlike = (patches - tokens.patches.flatten(1, 2)).abs().max().item()
    unfit = [str(names) for names in report.values() if names]
    kind = f"{type(theirs).__name__} {type(processor).__name__}"
    said.append([kind, theirs.config.layer_norm_eps, unfit, levels, unlike, transformers_deviation(ours, folder), str(theirs.dtype)])
print(json.dumps(said))
"""


def written(source: Path | str, folder: Path, dtype: str = "float32", resize: Resize = "crop") -> str:
    folder.mkdir()
    model = load(source, dtype=dtype)
    model.transform = replace(model.transform, resize=resize)
    write_transformers(model, folder)
    return str(folder)


def test_transformers_opens_it(golden: Path, tmp_path: Path, photos: Path) -> None:
    folders = [
        written("tiny", tmp_path / "tiny", resize="squash"),
        written(golden / "vit_micro_checkpoint.pth", tmp_path / "half", "float16"),
        written(golden / "swin_micro_w7_checkpoint.pth", tmp_path / "swin"),
    ]
    command = [sys.executable, "-c", THERE, str(photos / "coffee.jpg"), *folders]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    tiny, half, swin = json.loads(ended.stdout)
    assert tiny[:3] == ["ViTModel BitImageProcessor", 1e-6, []]
    assert tiny[4:] == [0, 0, "torch.float32"]
    assert half[5:] == [0, "torch.float16"]
    assert swin[:3] == ["SwinModel BitImageProcessor", 1e-6, []]
    for _, _, _, levels, unlike, deviation, _ in (tiny, swin):
        assert levels < 0.01  # the same resize, crop and normalisation
        assert unlike < 1e-3
        assert deviation < 1e-3
    assert swin[5] > 0


@pytest.mark.parametrize("file", ["vit_micro_checkpoint.pth", "swin_micro_w7_checkpoint.pth"])
@torch.no_grad()
def test_it_comes_back_bit_for_bit(golden: Path, tmp_path: Path, file: str) -> None:
    ours, folder = load(golden / file), Path(written(golden / file, tmp_path / "out"))
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    again = load(folder, head=True)
    assert torch.equal(again(images).patches, ours(images).patches)
    assert again.head is not None
    assert ours.head is not None
    assert torch.equal(again.head(ours(images)).patches, ours.head(ours(images)).patches)
    assert (again.card.network, again.transform) == ("teacher", ours.transform)
    (folder / "ibot.safetensors").unlink()
    assert load(written("tiny", tmp_path / "squash", resize="squash")).transform.resize == "squash"
    plain = load(folder)
    assert torch.equal(plain(images).patches, ours(images).patches)
    assert (plain.head, plain.card.network, plain.transform) == (None, None, ours.transform)


def test_window_14_is_refused_with_the_reason(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model with window 14 \(its last stage has a smaller one.*: take --format timm"):
        write_transformers(load(golden / "swin_micro_w14_checkpoint_teacher.pth"), tmp_path)
