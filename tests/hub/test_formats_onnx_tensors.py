"""The weights of an ONNX graph are read by name; what is no such file is refused."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.formats.onnx_tensors import onnx_tensors


def graph(path: Path) -> Path:
    named = {"backbone.norm.weight": np.arange(600, dtype=np.float32), "val_3": np.zeros(2), "backbone.lifted_tensor_0": np.zeros(2)}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in named.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], tensors))
    onnx.save(model, path)
    return path


def test_tensors_of_the_backbone_by_name(tmp_path: Path) -> None:
    tensors = onnx_tensors(graph(tmp_path / "model.onnx"))
    assert list(tensors) == ["backbone.norm.weight"]
    assert torch.equal(tensors["backbone.norm.weight"], torch.arange(600.0))
    tensors["backbone.norm.weight"] += 1  # its own memory


def test_a_graph_cannot_name_another_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = graph(tmp_path / "inner" / "model.onnx")
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"keeps backbone\.norm\.weight in another file"):
        onnx_tensors(path)


def test_what_is_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(WeightsError, match=r"model\.onnx does not exist"):
        onnx_tensors(path)
    whole = graph(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="is not an ONNX file, or is cut off"):
        onnx_tensors(path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'ibot-hub\[onnx\]'"):
        onnx_tensors(path)
