"""ONNX Runtime gives our tokens for any number of images, and the graph's weights come back bit for bit."""

import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.formats.onnx import onnx_deviation, write_onnx
from ibot_hub.images import ImageTransform
from ibot_hub.loading import load
from ibot_hub.model import Card, Model
from ibot_hub.swin import Swin

Exported = tuple[Model, Path]


@pytest.fixture(scope="module")
def vit(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, folder = load(golden / "vit_micro_checkpoint.pth", "student"), tmp_path_factory.mktemp("onnx")
    write_onnx(model, folder)
    return model, folder


def test_the_graph_takes_any_number_of_images(vit: Exported) -> None:
    _, folder = vit
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"images": ["batch", 3, 224, 224], "cls": ["batch", 128], "patches": ["batch", 14, 14, 128]}


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 5])
def test_the_tokens_are_ours(vit: Exported, count: int) -> None:
    model, folder = vit
    images = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(count))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    cls, patches = (torch.from_numpy(array) for array in session.run(["cls", "patches"], {"images": images.numpy()}))
    tokens = model(images)
    torch.testing.assert_close(cls, tokens.cls, rtol=0, atol=1e-4)
    torch.testing.assert_close(patches, tokens.patches, rtol=0, atol=1e-4)


@torch.no_grad()
def test_it_comes_back_with_head_and_mask_token(vit: Exported) -> None:
    model, folder = vit
    again = load(folder, head=True)
    theirs, ours = again.state_dict(), model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert (again.card.network, again.transform) == ("student", model.transform)


def test_tokens_that_differ_are_refused(vit: Exported, golden: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth", "student")
    assert onnx_deviation(model, vit[1]) < 1e-4
    model.backbone.norm.bias.data += 1e-3
    with pytest.raises(WeightsError, match=r"tokens that differ by 1\.0e-03 from torch's, over 0\.0001; nothing was exported"):
        onnx_deviation(model, vit[1])


def test_a_swin_is_exported_and_stays_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    swin = Swin(patch_size=8, window_size=7, embed_dim=8, depths=(2,), num_heads=(2,))  # the second block is shifted
    model = Model(swin, None, None, ImageTransform(patch=8), Card("swin", "Swin-8x2/7", "teacher")).eval()
    write_onnx(model, tmp_path)
    assert onnx_deviation(model, tmp_path) < 1e-4
    again = load(tmp_path).backbone.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in swin.state_dict().items())


def test_what_cannot_be_exported(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="this model is bfloat16; load it in float32"):
        write_onnx(load(golden / "vit_micro_checkpoint.pth", dtype="bfloat16"), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'ibot-hub\[onnx\]'"):
        write_onnx(load(golden / "vit_micro_checkpoint.pth"), tmp_path)
