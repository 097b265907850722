"""`ibot models` and `ibot info`: the catalogue in words."""

import dataclasses
import json
from typing import Annotated

import typer

from ibot_hub import catalog
from ibot_hub.errors import UnknownModelError

AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]


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
        "repository": f"{entry.url()} (hf-hub:{entry.repository})" if entry.repository else None,
        "mean, std": f"{entry.mean}, {entry.std}",
        "licence": entry.licence,
        "paper": entry.paper,
        "notes": entry.notes,
    }
    print(entry.name)
    for fact, value in facts.items():
        if value:
            print(f"  {fact:<16} {value}")


def _row(entry: catalog.Checkpoint) -> tuple[str, ...]:
    size = entry.sizes.get(entry.backbone_file or entry.full_file or "")
    numbers = [str(value) if value else "-" for value in (entry.epochs, entry.metrics.get("k-NN"), entry.metrics.get("linear"))]
    megabytes = f"{size // 1_000_000} MB" if size else "-"
    return (entry.name, entry.arch, entry.network or "-", entry.data, *numbers, megabytes, entry.licence)


def _file(entry: catalog.Checkpoint, file: str | None) -> str | None:
    if file is None:
        return None
    size = f" ({entry.sizes[file] // 1_000_000} MB)" if file in entry.sizes else ""
    digest = f", sha256 {entry.sha256[file]}" if file in entry.sha256 else ", no digest published"
    return f"{entry.url(file) or f'{file}, to be had by hand'}{size}{digest}"
