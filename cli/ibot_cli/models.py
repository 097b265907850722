"""Models in words: `ibot models`, `ibot info`, and the `--model` of every other command."""

import dataclasses
import json
import sys
from typing import Annotated

import typer

from ibot_hub import catalog
from ibot_hub.errors import UnknownModelError
from ibot_hub.options import DeviceChoice

DEFAULT = "tiny"  # of every command; the library has none

AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]
Device = Annotated[DeviceChoice, typer.Option("--device", help="Where the network runs; auto takes a CUDA GPU, else MPS, else the CPU.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help=f"A name, a file, a folder or hf-hub:org/name; `ibot models` lists the names; default: {DEFAULT}."),
]


def chosen_model(name: str | None) -> str:
    """What --model names; where it names nothing, the small model that ships with the package, and one line that says so."""
    if name is not None:
        return name
    limits = "64 px, weak, little better than raw pixels: to try things offline"
    print(
        f"no --model: this is {DEFAULT}, the small model that ships with the package ({limits}); --model vit_b16 has the paper's features.",
        file=sys.stderr,
    )
    return DEFAULT


def models(
    pattern: Annotated[str, typer.Argument(help='A shell pattern, such as "vit_*".')] = "*",
    as_json: AsJson = False,
) -> None:
    """List the models that can be loaded by name."""
    entries = [catalog.info(name) for name in catalog.list_models(pattern)]
    if not entries:
        raise UnknownModelError(f"No model's name matches {pattern!r}; `ibot models` lists all.")
    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    header = ("NAME", "ARCHITECTURE", "NETWORK", "DATA", "EPOCHS", "K-NN", "LINEAR", "SIZE", "LICENCE")
    rows = [header, *(_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def info(name: Annotated[str, typer.Argument(help="A name that `ibot models` lists.")], as_json: AsJson = False) -> None:
    """Show all that is known of a model.

    What it was trained on, where its files are, what its authors measured.
    """
    entry = catalog.info(name)
    if as_json:
        print(json.dumps(dataclasses.asdict(entry), indent=2))
        return
    facts = {
        "architecture": entry.arch,
        "network": entry.network,
        "data": entry.data,
        "epochs": entry.epochs,
        "masks": entry.masks,
        "patterns (K)": entry.patterns,
        "published": ", ".join(f"{name} {value}" for name, value in entry.metrics.items()),
        "backbone": _file(entry, entry.backbone_file),
        "full, with head": _file(entry, entry.full_file),
        "in the package": _file(entry, entry.embedded),
        "repository": f"{entry.url()} (hf-hub:{entry.repository})" if entry.repository else None,
        "images": f"{entry.resize}, mean {entry.mean}, std {entry.std}",
        "licence": entry.licence,
        "paper": entry.paper,
        "notes": entry.notes,
    }
    print(entry.name)
    for fact, value in facts.items():
        if value:
            print(f"  {fact:<16} {value}")


def _row(entry: catalog.Checkpoint) -> tuple[str, ...]:
    size = entry.sizes.get(entry.backbone_file or entry.full_file or entry.embedded or "")
    numbers = [str(value) if value else "-" for value in (entry.epochs, entry.metrics.get("k-NN"), entry.metrics.get("linear"))]
    megabytes = f"{size / 1e6:.0f} MB" if size else "-"
    return (entry.name, entry.arch, entry.network or "-", entry.data, *numbers, megabytes, entry.licence)


def _file(entry: catalog.Checkpoint, file: str | None) -> str | None:
    if file is None:
        return None
    size = f" ({entry.sizes[file] / 1e6:.0f} MB)" if file in entry.sizes else ""
    digest = f", sha256 {entry.sha256[file]}" if file in entry.sha256 else ", no digest published"
    place = f"{file}, backbone and head" if entry.embedded else entry.url(file) or f"{file}, to be had by hand"
    return f"{place}{size}{digest}"
