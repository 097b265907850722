"""One optimiser step of pre-training: its time in forward passes, its peak of memory, and how far it is from this machine's limit.

    python -m benchmarks.train_step                the rows of ViT-S/16 that the official code was measured on; minutes on a CPU
    python -m benchmarks.train_step --model b      on a GPU: ViT-B/16 (or l), images a second from memory

A *unit* is one float32 forward pass of timm's `vit_small_patch16_224` on 4 images of 224 px in the same process, so that a step can be
compared across machines. The step is that of `ibot train`: K = 8192, shared head, 14 % of the global patches hidden, stochastic depth
0.1. Crops are noise: the cost does not depend on them. Memory is the peak of the whole process (VmHWM), of a GPU that of its allocator.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.measure import alone, forget_peak, machine, peak, verdict
from ibot_hub.devices import DTYPES, cpu_multiplies_bfloat16, measure_products
from ibot_training.distributed import World
from ibot_training.recipe import Crops, Network, Recipe, Run
from ibot_training.step import Numbers, begin, take_step

HIDDEN = 0.14  # share of the global patches
WIDTHS = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
# batch, local crops, dtype: units and GB of the official code (2 cores with AMX), and what is to be reached
OFFICIAL: dict[tuple[int, int, str], tuple[float, float, float | None, float | None]] = {
    (4, 10, "float32"): (18.0, 3.3, 16.0, 2.0),
    (4, 10, "bfloat16"): (14.0, 2.7, None, None),
    (16, 10, "bfloat16"): (30.9, 5.6, 18.0, 2.8),
    (8, 0, "bfloat16"): (12.3, 3.0, None, None),
}


@dataclass(frozen=True)
class Part:
    global_crops: Tensor
    local_crops: Tensor | None
    global_masks: Tensor
    drops: Tensor
    local_masks: None = None


def recipe_of(model: str, local_count: int, run: Run) -> Recipe:
    width, depth, heads = WIDTHS[model]
    return Recipe(
        name="benchmark", network=Network(embed_dim=width, depths=(depth,), heads=(heads,)), crops=Crops(local_count=local_count), run=run
    )


def part_of(recipe: Recipe, batch: int, device: torch.device) -> Part:
    crops = recipe.crops
    side = crops.global_size // recipe.network.patch_size
    masks = torch.zeros(2 * batch, side * side, dtype=torch.bool)
    masks[: max(1, batch // 2 * 2), : round(2 * HIDDEN * side * side)] = True  # as drawn: half of the crops hide twice as much
    return Part(
        torch.randn(2 * batch, 3, crops.global_size, crops.global_size, device=device),
        torch.randn(crops.local_count * batch, 3, crops.local_size, crops.local_size, device=device) if crops.local_count else None,
        masks.view(-1, side, side),
        torch.rand((2 + crops.local_count) * batch, 2 * recipe.network.depths[0], device=device),
    )


def measure(model: str, batch: int, local_count: int, dtype: str, device: str, repeats: int, run: Run) -> dict[str, Any]:
    """Seconds of a unit and of a step (medians of interleaved repeats), MiB at the peak."""
    torch.manual_seed(0)
    place = torch.device(device)
    recipe = recipe_of(model, local_count, run)
    progress = begin(recipe, World(0, 1, place), DTYPES[dtype])
    part = part_of(recipe, batch, place)
    numbers = Numbers(1e-4, 0.04, 0.996, 0.04, 0.04, last_layer_frozen=False)
    for _ in range(3 if place.type == "cuda" else 1):
        take_step(progress, [part], numbers)
    if place.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    steps: list[float] = []
    inner = 10 if place.type == "cuda" else 1
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(inner):
            losses = take_step(progress, [part], numbers)
        losses.total.item()
        steps.append((time.perf_counter() - started) / inner)
    memory = torch.cuda.max_memory_allocated() / 2**20 if place.type == "cuda" else peak()
    unit = unit_seconds(place, repeats)
    rate = measure_products(place, seconds=1.0, side=8192 if place.type == "cuda" else 1024)[dtype]
    step = statistics.median(steps)
    return {
        "step": step, "unit": unit, "units": step / unit, "MiB": memory, "img/s": batch / step,
        "share": flops(recipe, batch) / step / 1e9 / rate, "GFLOP": flops(recipe, batch) / 1e9, "GFLOP/s of products": rate,
    }  # fmt: skip


def unit_seconds(device: torch.device, repeats: int) -> float:
    network = timm.create_model("vit_small_patch16_224").eval().to(device)
    images = torch.randn(4, 3, 224, 224, device=device)
    seconds = []
    with torch.no_grad():
        for _ in range(2 * repeats + 1):
            started = time.perf_counter()
            network(images)[0, 0].item()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def flops(recipe: Recipe, batch: int) -> float:
    """Of the products of one step: twice the multiplications; the backward pass counts twice the forward."""
    crops, network, head = recipe.crops, recipe.network, recipe.head
    width, depth = network.embed_dim, network.depths[0]

    def backbone(side: int) -> float:
        patches = (side // network.patch_size) ** 2
        tokens = patches + 1
        return patches * 3 * network.patch_size**2 * width + depth * tokens * (12 * width**2 + 2 * tokens * width)

    hidden_patches = HIDDEN * (crops.global_size // network.patch_size) ** 2
    all_patches = (crops.global_size // network.patch_size) ** 2
    mlp = head.hidden_dim * (width + head.hidden_dim + head.bottleneck_dim)
    last = head.bottleneck_dim * head.patterns
    shown = crops.global_count * backbone(crops.global_size)
    student = shown + crops.local_count * backbone(crops.local_size)
    student += (crops.global_count * (1 + hidden_patches) + crops.local_count) * (mlp + last)
    teacher = shown + crops.global_count * ((1 + all_patches) * mlp + (1 + hidden_patches) * last)
    return 2 * batch * (3 * student + teacher)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(WIDTHS), default="s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, nargs="*", help="other batch sizes than those of the official figures")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="one precision alone")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = replace(Run(), compile=options.compile, checkpointing=options.checkpointing)
    fast = options.device != "cpu" or cpu_multiplies_bfloat16()
    rows = list(OFFICIAL) if not options.batch else [(batch, 10, options.dtype or "bfloat16") for batch in options.batch]
    facts: dict[str, Any] = {"machine": machine(), "model": options.model, "rows": []}
    print(json.dumps(facts["machine"]))
    for batch, local_count, dtype in rows:
        if options.dtype not in (None, dtype):
            continue
        if dtype == "bfloat16" and not fast:
            print(f"batch {batch}, {dtype}: not measured, this CPU has no instructions for bfloat16 products")
            continue
        figures = alone(measure, options.model, batch, local_count, dtype, options.device, options.repeats, run)
        facts["rows"].append({"batch": batch, "local_count": local_count, "dtype": dtype, **figures})
        print(
            f"ViT-{options.model.upper()}/16, batch {batch}, 2x224 + {local_count}x96, {dtype}: {figures['step']:.3f} s a step, "
            f"{figures['img/s']:.1f} img/s, {figures['share']:.0%} of the rate of products here"
        )
        report(figures, OFFICIAL.get((batch, local_count, dtype)) if options.model == "s" else None)
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2))


def report(figures: dict[str, Any], known: tuple[float, float, float | None, float | None] | None) -> None:
    units, gigabytes, most_units, most_gigabytes = known or (None, None, None, None)
    rows = (("units", figures["units"], units, most_units), ("GB", figures["MiB"] / 1024, gigabytes, most_gigabytes))
    for name, value, official, target in rows:
        beside = f"   official {official}" if official else ""
        print(f"  {name:<6}" + (verdict(value, target, at_least=False) if target else f"{value:6.3f}") + beside)


if __name__ == "__main__":
    main()
