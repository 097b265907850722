"""What the commands of `ibot eval` ask for alike, and how they answer."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.models import chosen_model
from ibot_cli.pictures import write_picture
from ibot_hub.options import EvaluationOptions, Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from PIL.Image import Image

    from ibot_hub.evaluation.class_folders import ClassFolders
    from ibot_hub.evaluation.labelled import Labelled
    from ibot_hub.evaluation.record import Record
    from ibot_hub.model import Model

    Sides = tuple[ClassFolders, ClassFolders]  # training and validation

_DATA = "A folder of class folders (ImageNet's layout), or what `ibot extract-features` wrote of one."
Train = Annotated[str, typer.Option("--train", help=_DATA)]
Val = Annotated[str, typer.Option("--val", help=_DATA)]
Out = Annotated[Path, typer.Option("-o", "--out", help="The folder for results, and for the features of images.")]
OUT = Path("eval")


def opened(name: str | None, *sources: str, head: bool | None = False) -> "Model | None":
    """The model, told on standard error; None where no source holds images, so that none is needed."""
    from ibot_hub.errors import UsageError
    from ibot_hub.features.store import MANIFEST, read_manifest
    from ibot_hub.loading import load
    from ibot_hub.sources import kind_of

    for source in sources:  # before a model is fetched for nothing
        kind_of(source)
    if not head and all((Path(source) / MANIFEST).exists() for source in sources):
        for source, seen_by in ((source, read_manifest(Path(source)).model) for source in sources):
            if name not in (None, seen_by) and str(Path(name).absolute()) != seen_by:
                raise UsageError(f"{source} holds features by {seen_by}, and --model is {name}; leave it out, or give the images.")
        return None
    model = load(chosen_model(name), head=head)
    print(f"{model.card.name}: {model.card.in_words()}", file=sys.stderr)
    return model


def both_read(train: str, val: str) -> "Sides":
    """What two sides hold. Raises UsageError where their classes do not fit, before a model is fetched for nothing."""
    from ibot_hub.evaluation.class_folders import check_classes, read_classes

    one, other = read_classes(train), read_classes(val)
    check_classes(one.images, other.images, train, val)
    return one, other


def one_side(
    folders: "ClassFolders", model: "Model | None", out: Path, options: EvaluationOptions, *, layers: int = 1, pool: Pool = "cls"
) -> "Labelled":  # fmt: skip
    """Features of the images of class folders; images that could not be read are told on standard error."""
    from ibot_hub.evaluation.labelled import labelled, told_left_out

    side = labelled(folders, model, out / "features", options, layers=layers, pool=pool)
    told_left_out(folders.source, side.broken)
    return side


def check_images(*sides: "ClassFolders") -> None:
    """Raises UsageError for features where the images themselves are needed."""
    from ibot_hub.errors import UsageError

    for folders in sides:
        if folders.state is None:
            raise UsageError(f"{folders.source} holds features, and the images themselves are needed; give the folder of class folders.")


def loaded_model(name: str | None) -> "Model":
    """The model that sees the images itself, told on standard error."""
    from ibot_hub.loading import load

    model = load(chosen_model(name), head=False)
    print(f"{model.card.name}: {model.card.in_words()}", file=sys.stderr)
    return model


def both_sides(
    sides: "Sides", model: "Model | None", out: Path, options: EvaluationOptions, *, layers: int = 1, pool: Pool = "cls"
) -> "tuple[Labelled, Labelled]":  # fmt: skip
    """Features of training and validation images, in the same classes."""
    from ibot_hub.evaluation.labelled import check_made, pair

    for folders in sides:  # before one of them is extracted for nothing
        check_made(folders.source, options, layers, pool)
    one, other = (one_side(folders, model, out, options, layers=layers, pool=pool) for folders in sides)
    return pair(one, other)


def computing_device(options: EvaluationOptions) -> "torch.device":
    """Where products of features are computed: on a CUDA GPU where the network may run on one, else on the CPU."""
    import torch

    from ibot_hub.devices import choose_devices

    device = choose_devices(options.device)[0]
    return device if device.type == "cuda" else torch.device("cpu")


def answer(done: "Record", out: Path, as_json: bool, draw: "Callable[[], Image] | None" = None) -> None:
    """The table of the record, or with --json all of it, on standard output; then it is written, and the picture beside it drawn."""
    from ibot_hub.evaluation import record

    print(record.as_json(done) if as_json else done.table.text())
    written = [record.write_record(done, out)]
    if draw:
        written.append(written[0].with_suffix(".png"))
        write_picture(draw(), written[1])
    print(f"written to {' and '.join(map(str, written))}", file=sys.stderr)
