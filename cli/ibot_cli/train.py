"""`ibot train`: a recipe and a folder of images become a run."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_hub.errors import UsageError
from ibot_hub.options import DeviceChoice

if TYPE_CHECKING:
    from ibot_training.recipe import Recipe


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe that --list names, or a .toml file of differences.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="A folder of images, .tar shards, a list of paths, or datasets:NAME.")] = None,
    start_name: Annotated[
        str | None, typer.Option("--from", help="What a new run starts from: hf-hub:org/name, a run's folder, or a model with its head.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The run's folder; the same command goes on in it.")] = Path("run"),
    settings: Annotated[list[str] | None, typer.Option("--set", help="A number of the recipe: section.key=value.")] = None,
    device: Annotated[DeviceChoice, typer.Option("--device", help="Where it runs; auto is CUDA, else MPS, else the CPU.")] = "auto",
    show: Annotated[bool, typer.Option("--show", help="Show every number of the recipe, and what it differs in.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Pre-train a model.

    Stop it when you like: the same command goes on where it was, bit for bit on a CPU. torchrun starts it on several GPUs. What it writes
    opens with `ibot_hub.load(OUT)`. --from starts where others were: from the training state of a run, or from a model's networks.
    """
    from ibot_training.recipe_file import list_recipes, load_recipe, to_toml

    if list_:
        _print_table(list_recipes())
        return
    if recipe is None and start_name is None:
        raise UsageError("Which recipe? `ibot train --list` lists them.")
    if data is None and not show:
        raise UsageError("Which images? Name their folder with --data.")
    start = None
    if start_name is not None:
        from ibot_training.starting import find_start

        start = find_start(start_name, out)
    brought = start.recipe if start else None
    if recipe is None and brought is None:
        raise UsageError(f"{start_name} comes without a recipe; name one for its network: `ibot train --list` lists them.")
    chosen = load_recipe(recipe or str(brought), settings or [])
    if data is None or show:
        print(to_toml(chosen), end="")
        return
    from ibot_training.loop import train as run_training

    trained = run_training(chosen, data, out, start=start, device=device, command=sys.argv[1:])
    if trained.leads:
        loss = "was finished before" if math.isnan(trained.loss) else f"loss {trained.loss:.4f}"
        print(f"{trained.steps} steps, {loss} -> {out}; ibot_hub.load({json.dumps(str(out))}) opens it", file=sys.stderr)


def _print_table(recipes: "list[Recipe]") -> None:
    header = ("RECIPE", "EPOCHS", "EFFECTIVE", "K", "CROPS", "WHAT IT IS")
    rows = [header]
    for recipe in recipes:
        crops = recipe.crops
        views = f"{crops.global_count}x{crops.global_size}" + (f" + {crops.local_count}x{crops.local_size}" if crops.local_count else "")
        numbers = (str(recipe.optimiser.epochs), f"{recipe.effective_epochs:.0f}", str(recipe.head.patterns))
        rows.append((recipe.name, *numbers, views, recipe.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
