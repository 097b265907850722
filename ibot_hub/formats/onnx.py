"""A model's backbone as an ONNX graph, with what that has no room for beside it."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ibot_hub import weights
from ibot_hub.backbones import Backbone
from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.formats.agreement import for_comparison, largest_difference, noise
from ibot_hub.formats.contents import contents
from ibot_hub.formats.onnx_tensors import ONNX
from ibot_hub.model import Model
from ibot_hub.origin import EXTRAS

TOLERANCE = 1e-4  # of a token, between ONNX Runtime and torch


class _Graph(nn.Module):
    """What is exported: images [B, 3, size, size] -> cls [B, D], patches [B, H, W, D]."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.backbone(images)
        return tokens.cls, tokens.patches


def write_onnx(model: Model, folder: Path) -> None:
    """Write model.onnx, any number of images of the native size at a time, and ibot.safetensors (head, mask token, origin).

    The size is fixed, because a position table is interpolated by factors that the exporter has to know. The tensors keep their
    names, so that `ibot_hub.load` reads them back; ONNX Runtime optimises the graph when it opens it.

    Raises:
        UsageError: the model is not float32, or a package that this needs is not installed.
    """
    _check_installed()
    if model.dtype != torch.float32:
        raise UsageError(f"ONNX is exported in float32, this model is {str(model.dtype).removeprefix('torch.')}; load it in float32.")
    images, graph = noise(model), _Graph(for_comparison(model)).eval()
    with torch.no_grad():
        graph(images)  # a Swin keeps the masks of this size then, real ones: under the exporter it would keep imitations
    program = torch.onnx.export(
        graph, (images,), dynamo=True, optimize=False, verbose=False, input_names=["images"], output_names=["cls", "patches"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}}, external_data=False,
    )  # fmt: skip
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    program.save(str(folder / ONNX), external_data=False)
    weights.save(replace(contents(model, "onnx"), backbone={}), folder / EXTRAS)


def onnx_deviation(model: Model, folder: Path) -> float:
    """How far ONNX Runtime's tokens are from torch's, for another number of images than the graph was made with.

    Raises:
        WeightsError: by more than 1e-4.
    """
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])

    def answer(images: Tensor) -> tuple[Tensor, Tensor]:
        cls, patches = (torch.from_numpy(array) for array in session.run(["cls", "patches"], {"images": images.numpy()}))
        return cls, patches.flatten(1, 2)

    difference = largest_difference(model, answer, count=3)
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"ONNX Runtime {onnxruntime.__version__} gives tokens that differ by {difference:.1e} from torch's, over {TOLERANCE}; "
            "nothing was exported. Try another version of torch or onnxruntime."
        )
    return difference


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("An export to ONNX needs onnx, onnxscript and onnxruntime; pip install 'ibot-hub[onnx]'.") from error
