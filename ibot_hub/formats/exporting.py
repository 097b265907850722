"""A model -> a folder in another library's layout, checked by that library before it is there."""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError

from ibot_hub import weights
from ibot_hub.errors import StoreError, UsageError, WeightsError
from ibot_hub.formats.contents import contents
from ibot_hub.formats.official import official_network, write_official
from ibot_hub.formats.onnx import onnx_deviation, write_onnx
from ibot_hub.formats.onnx_tensors import ONNX
from ibot_hub.formats.timm import timm_deviation, write_timm
from ibot_hub.formats.transformers import transformers_deviation, write_transformers
from ibot_hub.hub.answers import save_answers
from ibot_hub.model import Model
from ibot_hub.options import ExportFormat, ExportOptions
from ibot_hub.origin import ANSWERS, EXTRAS
from ibot_hub.swin import Swin

FACTS = "ibot.json"
_FILES = {
    *(FACTS, ANSWERS, EXTRAS, "config.json", "preprocessor_config.json", "model.safetensors", ONNX),
    *(weights.OFFICIAL, "checkpoint_teacher.pth", "checkpoint_student.pth"),
}
_CHECKED_WITH = {"timm": "timm", "transformers": "transformers", "onnx": "onnxruntime", "official": "torch"}


@dataclass(frozen=True)
class Exported:
    """What ibot.json says of the files beside it."""

    format: str
    arch: str  # "ViT-S/16"
    network: str | None  # "teacher", "student"; None where the model's own file did not say
    dtype: str
    head: bool
    mask_token: bool
    images: Mapping[str, Any]  # how they are prepared: sizes in pixels, mean and std of red, green, blue in 0..1
    deviation: float | None  # largest difference of a number of the final-norm tokens from ours, for noise at the native size
    checked_with: str  # "timm 1.0.31"
    notes: tuple[str, ...]  # what a user of the files has to know, a sentence each


def export(model: Model, out: Path | str, format: ExportFormat = ExportOptions.format) -> Path:
    """Write a folder that another library opens, and `ibot_hub.load` too: with the same tensors, bit for bit (else it is not there).

    timm          config.json and model.safetensors, for `timm.create_model("local-dir:...")` and transformers' `AutoModel`
    transformers  `ViTModel`, or `SwinModel` for window 7, and its image processor
    onnx          model.onnx for any number of images of the native size: `images` -> `cls`, `patches`
    official      checkpoint.pth and checkpoint_teacher.pth (or _student), as the scripts of the paper's authors read them

    Beside them are ibot.json (`Exported`), answers.safetensors (`ibot_hub.verify` asks the model again), and for all but the
    official format ibot.safetensors: head, mask token, network.

    Args:
        out: the folder. An earlier export there is replaced; anything else is refused.

    Returns:
        The folder.

    Raises:
        UsageError: this model cannot be had in that format, or a package that checks it is not installed.
        StoreError: there is something else, or the folder cannot be written.
    """
    target = Path(out)
    check_export(target, format)
    with _replacing(target) as folder:
        deviation = _written(model, folder, format)
        _check_reopened(model, folder)
        save_answers(model, folder / ANSWERS)
        (folder / FACTS).write_text(json.dumps(asdict(_facts(model, format, deviation)), indent=2) + "\n")
    return target


def check_export(target: Path, format: str) -> None:
    """Raises UsageError for an unknown format, StoreError where the folder holds something that is no export."""
    if format not in get_args(ExportFormat):
        raise UsageError(f"There is no format {format!r}; say {', '.join(get_args(ExportFormat))}.")
    if not target.exists():
        return
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else {""}
    if names and not (FACTS in names and names <= _FILES):
        raise StoreError(f"{target} holds something else than an export; choose another --out.")


def read_exported(folder: Path) -> Exported:
    """What is said of an export. The folder must be one."""
    facts = json.loads((folder / FACTS).read_bytes())
    return Exported(**facts | {"notes": tuple(facts["notes"])})


def _written(model: Model, folder: Path, format: ExportFormat) -> float | None:
    """Write the files; how far the library's tokens are from ours, None where no library can be asked."""
    match format:
        case "timm":
            write_timm(model, folder)
            return timm_deviation(model, folder)
        case "transformers":
            write_transformers(model, folder)
            return transformers_deviation(model, folder)
        case "onnx":
            write_onnx(model, folder)
            return onnx_deviation(model, folder)
        case "official":
            write_official(model, folder)
            return None


def _check_reopened(model: Model, folder: Path) -> None:
    """Raises WeightsError unless what lies there is the model, bit for bit."""
    ours, theirs = contents(model, ""), weights.read(folder)
    pairs = ((ours.backbone, theirs.backbone), (ours.head or {}, theirs.head or {}), ({"": ours.mask_token}, {"": theirs.mask_token}))
    for mine, read in pairs:
        if mine.keys() != read.keys() or not all(_equal(mine[name], read[name]) for name in mine):
            raise WeightsError(f"{folder} does not hold what was written to it; nothing was exported. Is the disk sound?")


def _equal(mine: torch.Tensor | None, read: torch.Tensor | None) -> bool:
    if mine is None or read is None:
        return mine is read
    return mine.dtype == read.dtype and torch.equal(mine, read)


def _facts(model: Model, format: ExportFormat, deviation: float | None) -> Exported:
    transform, package = model.transform, _CHECKED_WITH[format]
    size = transform.size
    squashed = transform.resize == "squash"
    images = {
        "input": f"float32 [B, 3, {size}, {size}], RGB, (value / 255 - mean) / std", "interpolation": "bicubic, antialiased",
        **({"squash": size} if squashed else {"resize_short_side": int(size * 256 / 224), "centre_crop": size}),
        "mean": transform.mean, "std": transform.std,
    }  # fmt: skip
    return Exported(
        format, model.card.arch, model.card.network, str(model.dtype).removeprefix("torch."), model.head is not None,
        model.mask_token is not None, images, deviation, f"{package} {version(package)}", tuple(_notes(model, format)),
    )  # fmt: skip


def _notes(model: Model, format: ExportFormat) -> Iterator[str]:
    swin, size = isinstance(model.backbone, Swin), model.transform.size
    if model.head is None:
        yield "The model came without its projection head, so there is none here."
    if format == "transformers":
        yield "Load it with AutoModel.from_pretrained(folder, add_pooling_layer=False): else a pooler with random weights appears."
    if format in ("timm", "transformers") and swin:
        where = "timm fixes in every norm, transformers' AutoModel too" if format == "timm" else "transformers fixes in some norms"
        yield f"Tokens of a Swin differ from the official ones by an eps of 1e-5 that {where}; the official one is 1e-6."
    if format in ("timm", "transformers") and not swin:
        yield f"At other sizes than {size} px the library interpolates the position table in its own way, and tokens differ."
    if format == "onnx":
        yield f"The graph takes any number of images, all of {size} x {size} pixels."
    if format == "official" and model.card.network is None:
        yield f"The model does not say which network it is; it is put under {official_network(model)!r}."
    if format == "official":
        yield "Optimiser, centres and epoch are not in these files: the official code can evaluate them, not go on training."


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target that takes its place once it is whole, and else is removed."""
    target = target.absolute()
    mark = uuid.uuid4().hex[:8]
    temporary, old = (target.with_name(f".{target.name}.{mark}.{end}") for end in ("partial", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():  # safetensors lets nobody else read what it writes
            file.chmod((temporary / FACTS).stat().st_mode)
        if target.exists():
            target.replace(old)
        temporary.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{target} cannot be written: {getattr(error, 'strerror', None) or error}; make room, or choose another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
