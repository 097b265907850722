"""What a model answers to one fixed picture, kept beside its weights to be asked again later."""

import copy
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ibot_hub.errors import WeightsError
from ibot_hub.model import Model
from ibot_hub.origin import ANSWERS

TOLERANCE = 1e-3  # of the largest number of each answer; machines and versions of torch are 1e-5 apart


def fixed_picture(size: int) -> Tensor:
    """uint8 [3, size, size] that is the same to the byte on every machine, coarse and fine structure in it."""
    channel, row, column = torch.meshgrid(torch.arange(3), torch.arange(size), torch.arange(size), indexing="ij")
    coarse = (row * 5 + column * 3 + channel * 85) % 256
    fine = (row * 7919 + column * 104729 + channel * 1299709) % 251
    return ((3 * coarse + fine) // 4).to(torch.uint8)


@torch.no_grad()
def answers(model: Model) -> dict[str, Tensor]:
    """`cls` [D] and `patches` [W, D] of the middle row at the native size and, with a head, `logits` [K] and `confidences` [W].

    Computed in float32 on the CPU, whatever the model is in.
    """
    if (model.device.type, model.dtype) != ("cpu", torch.float32):
        model = copy.deepcopy(model).to("cpu", torch.float32)
    images = model.transform.normalise(fixed_picture(model.transform.size))[None]
    tokens = model.backbone.eval()(images)
    row = tokens.patches[0, tokens.patches.shape[1] // 2]  # [W, D]
    answer = {"cls": tokens.cls[0], "patches": row}
    if model.head is not None:
        answer["logits"] = model.head.cls_logits(tokens.cls[0])
        answer["confidences"] = model.head.patch_logits(row).max(dim=-1).values
    return {name: tensor.contiguous() for name, tensor in answer.items()}


def answers_beside(path: Path) -> Path:
    """Where the answers of the model in that folder or file are kept: x.answers.safetensors belongs to x.safetensors."""
    return path / ANSWERS if path.is_dir() else path.with_name(f"{path.stem}.{ANSWERS}")


def save_answers(model: Model, file: Path) -> None:
    """Write what the model answers now."""
    safetensors.torch.save_file(answers(model), file)


def check_answers(model: Model, file: Path) -> float:
    """The largest difference from what `file` holds, relative to the largest number of each answer.

    Raises:
        WeightsError: it is above 1e-3, or the file is damaged or of another model.
    """
    try:
        stored = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read ({error}); fetch it again.") from error
    worst = 0.0
    for name, mine in answers(model).items():
        theirs = stored.get(name)
        if theirs is None or theirs.shape != mine.shape:
            raise WeightsError(f"{file} is of another model: it has no {name} of shape {tuple(mine.shape)}; fetch both again.")
        apart = ((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)).item()
        if not apart <= TOLERANCE:  # NaN too
            raise WeightsError(
                f"{file}: the model now answers {apart:.1g} apart from what it answered when this was written, more than {TOLERANCE:g}; "
                "the weights, or the versions of torch and timm, have changed (`ibot doctor` names them)."
            )
        worst = max(worst, apart)
    return worst
