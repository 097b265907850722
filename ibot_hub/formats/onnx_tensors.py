"""The weights that an ONNX graph holds, by name."""

from pathlib import Path

import torch
from torch import Tensor

from ibot_hub.errors import UsageError, WeightsError

ONNX = "model.onnx"  # in a folder that ibot-hub exported


def onnx_tensors(path: Path) -> dict[str, Tensor]:
    """The initialisers that belong to the backbone, with their prefix `backbone.`; constants of the graph are left out.

    What lies in other files is refused, so the graph can name none.

    Raises:
        UsageError: the package onnx is not installed; WeightsError: it is missing or no whole ONNX file.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(f"{path} is read with onnx; pip install 'ibot-hub[onnx]'.") from error
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; export the model again.")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise WeightsError(f"{path} is not an ONNX file, or is cut off; export the model again.") from error
    weights = [tensor for tensor in graph.initializer if tensor.name.startswith("backbone.") and "lifted_tensor" not in tensor.name]
    apart = [tensor.name for tensor in weights if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if apart:
        raise WeightsError(f"{path} keeps {apart[0]} in another file, as ibot-hub does not; load the checkpoint it was made of.")
    # arrays of onnx may be the file's own memory, which cannot be written to
    return {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in weights}
