"""What the commands of `ibot eval` ask for alike, and how they answer."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.models import chosen_model
from ibot_hub.options import EvaluationOptions, Pool

if TYPE_CHECKING:
    from ibot_hub.evaluation.labelled import Labelled
    from ibot_hub.evaluation.record import Record
    from ibot_hub.model import Model

_DATA = "A folder of class folders (ImageNet's layout), or what `ibot extract-features` wrote of one."
Train = Annotated[str, typer.Option("--train", help=_DATA)]
Val = Annotated[str, typer.Option("--val", help=_DATA)]
Out = Annotated[Path, typer.Option("-o", "--out", help="The folder for results, and for the features of images.")]
OUT = Path("eval")


def opened(name: str | None, *sources: str, head: bool | None = False) -> "Model | None":
    """The model, told on standard error; None where no source holds images, so that none is needed."""
    from ibot_hub.features.store import MANIFEST
    from ibot_hub.loading import load
    from ibot_hub.sources import kind_of

    for source in sources:  # before a model is fetched for nothing
        kind_of(source)
    if not head and all((Path(source) / MANIFEST).exists() for source in sources):
        return None
    model = load(chosen_model(name), head=head)
    print(f"{model.card.name}: {model.card.in_words()}", file=sys.stderr)
    return model


def loaded_model(name: str | None) -> "Model":
    """The model that sees the images itself, told on standard error."""
    from ibot_hub.loading import load

    model = load(chosen_model(name), head=False)
    print(f"{model.card.name}: {model.card.in_words()}", file=sys.stderr)
    return model


def both_sides(
    train: str, val: str, model: "Model | None", out: Path, options: EvaluationOptions, *, layers: int = 1, pool: Pool = "cls"
) -> "tuple[Labelled, Labelled]":  # fmt: skip
    """Features of training and validation images, in the same classes."""
    from ibot_hub.evaluation.labelled import labelled, pair

    kind = f"{pool.replace('+', '-')}-{layers}"
    seen_by = _name(model.card.name) if model else ""
    sides = [
        labelled(side, model, out / "features" / seen_by / f"{_name(side)}-{kind}", options, layers=layers, pool=pool)
        for side in (train, val)
    ]
    for side, source in zip(sides, (train, val), strict=True):
        if side.failed:
            print(f"{side.failed} images of {source} could not be read and are left out", file=sys.stderr)
    return pair(*sides)


def answer(done: "Record", out: Path, as_json: bool) -> None:
    """Write the record; its table, or with --json all of it, on standard output."""
    from ibot_hub.evaluation import record

    path = record.write_record(done, out)
    print(record.as_json(done) if as_json else done.table.text())
    print(f"written to {path}", file=sys.stderr)


def _name(source: str) -> str:
    """The last two parts of a path, or a model's name, as a name for a folder: data/tiny/val -> tiny-val."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(Path(source).parts[-2:])).strip("-.")
