"""`ibot export`: a model becomes a folder that timm, transformers, ONNX Runtime or the official scripts open."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.models import AsJson
from ibot_cli.options import options_from
from ibot_hub.options import ExportOptions


@options_from(ExportOptions)
def export(
    model: Annotated[str, typer.Argument(help="A name, a file, a folder or hf-hub:org/name; `ibot models` lists the names.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; an earlier export there is replaced.")] = Path("exported"),
    network: Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")] = None,
    head: Annotated[
        bool | None, typer.Option("--head/--no-head", help="Fetch what holds the projection head; default: where it is at hand.")
    ] = None,
    as_json: AsJson = False,
    *,
    options: ExportOptions,
) -> None:
    """Write a model as timm, transformers, ONNX Runtime or the official scripts read it.

    The library itself checks the tokens, and `ibot_hub.load` opens the folder again.
    """
    from ibot_hub.formats.exporting import check_export, read_exported
    from ibot_hub.formats.exporting import export as write
    from ibot_hub.loading import load

    check_export(out, options.format)  # before a model is fetched for nothing
    loaded = load(model, network=network, head=head)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    facts = read_exported(write(loaded, out, options.format))
    if as_json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(facts)}))
        return
    checked = {None: "opened again, the same tensors to the bit", 0.0: f"{facts.checked_with} gives the same tokens to the bit"}
    said = checked.get(facts.deviation, f"tokens of {facts.checked_with} differ by {facts.deviation or 0:.1e} at most")
    parts = " and ".join(["backbone", *(["head"] if facts.head else []), *(["mask token"] if facts.mask_token else [])])
    print(f"{parts} -> {out}, {facts.format}; {said}", file=sys.stderr)
    for note in facts.notes:
        print(note, file=sys.stderr)
