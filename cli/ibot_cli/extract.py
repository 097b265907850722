"""`ibot extract-features`: a source of images becomes a folder of features."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.models import AsJson, ModelName, chosen_model
from ibot_cli.options import options_from
from ibot_hub.features.parts import Part
from ibot_hub.options import ExtractOptions

if TYPE_CHECKING:
    from ibot_hub.features.extraction import Extraction


@options_from(ExtractOptions)
def extract_features(
    source: Annotated[str, typer.Argument(help="An image, a folder, a text file of paths, .tar shards, or - for paths on standard input.")],
    model: ModelName = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; the same command goes on in it.")] = Path("features"),
    network: Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")] = None,
    as_json: AsJson = False,
    *,
    options: ExtractOptions,
) -> None:
    """Extract features from images.

    Stop it when you like: the same command goes on, and what it writes is the same to the byte.
    """
    from ibot_hub.features.extraction import check_request, extract
    from ibot_hub.loading import load

    check_request(source, options)  # before a model is fetched for nothing
    loaded = load(chosen_model(model), network=network, head=False)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    part = Part.from_environment()
    if options.part is None and part.count > 1:
        print(f"part {part.index} of {part.count}, as the environment says; --part 0/1 takes all", file=sys.stderr)
    result = extract(loaded, source, out, options)
    if as_json:
        print(json.dumps(_facts(result)))
    else:
        print(_summary(result), file=sys.stderr)
    if result.failed and (options.strict or result.failed == result.images):
        raise typer.Exit(1)


def _facts(result: "Extraction") -> dict[str, object]:
    manifest = result.manifest
    return {
        "out": str(result.out), "images": result.images, "failed": result.failed, "resumed": result.resumed,
        "seconds": round(result.seconds, 3), "waiting": round(result.waiting, 4), "model": manifest.model, "network": manifest.network,
        "dtype": manifest.dtype, "columns": dict(manifest.columns), "part": f"{result.part.index}/{result.part.count}",
    }  # fmt: skip


def _summary(result: "Extraction") -> str:
    manifest = result.manifest
    fresh = result.images - result.resumed
    pace = f"{fresh / result.seconds:.1f} img/s, {result.waiting:.0%} of the time waiting for images"
    rate = f"{fresh} images in {result.seconds:.1f} s, {pace}"
    columns = ", ".join(f"{name} {list(shape) if shape else 'of any shape'}" for name, shape in manifest.columns.items())
    share = f" (part {result.part.index} of {result.part.count})" if result.part.count > 1 else ""
    lines = [
        f"{result.images - result.failed} of {result.images} images{share} -> {result.out}: {columns}, {manifest.dtype}, {manifest.format}",
        "; ".join(([rate] if fresh else []) + ([f"{result.resumed} images were there already"] if result.resumed else [])),
    ]
    if result.failed:
        lines.append(f"{result.failed} images could not be read: {result.out / 'failed.jsonl'} says why")
    return "\n".join(lines)
