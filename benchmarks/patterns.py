"""Finding the patterns of images against extracting their features: time and memory.

    python -m benchmarks.patterns            ViT-S/16 and ViT-B/16, K = 8192; --quick in a few minutes

Both read the same JPEGs with the same network in the same precision; finding runs the projection head as well, and keeps the best
patches. Each measurement has a fresh process; importing, loading the model and a first image are not timed. One repeat measures each
thing once, one after the other; figures are medians. Networks and heads have untrained weights. Memory is the peak (VmHWM) above what
is resident before the model is loaded, so that the head itself counts; it is taken over many small images, which fill many places.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import ibot_hub
from benchmarks.extract import write_links, write_photos
from benchmarks.measure import alone, forget_peak, machine, network_dtype, peak, verdict
from benchmarks.rates import WIDTHS, Task
from ibot_hub import weights
from ibot_hub.head import Head
from ibot_hub.options import ExtractOptions
from ibot_hub.origin import Origin
from ibot_hub.patterns.finding import find_patterns
from ibot_hub.vit import ViT

TARGETS = {"vit_s16": 1.4, "vit_b16": 1.15}  # of the time, by extraction's
MEMORY = 300  # MiB above extraction's


def extracting(task: Task) -> tuple[float, float]:
    """Images a second, and the peak in MiB."""
    before = forget_peak()
    model = ibot_hub.load(task.checkpoint, head=False)
    with TemporaryDirectory() as out:
        ibot_hub.extract(model, task.photos, Path(out) / "first", task.options, limit=1)
        started = time.perf_counter()
        ibot_hub.extract(model, task.photos, Path(out) / "all", task.options, limit=task.images)
        return task.images / (time.perf_counter() - started), peak() - before


def finding(task: Task) -> tuple[float, float]:
    """The same of finding patterns, until the atlas is saved."""
    before = forget_peak()
    model = ibot_hub.load(task.checkpoint, head=True)
    alike: dict[str, Any] = {name: getattr(task.options, name) for name in ("dtype", "device", "workers", "size")}
    find_patterns(model, task.photos, limit=1, **alike)
    with TemporaryDirectory() as out:
        started = time.perf_counter()
        find_patterns(model, task.photos, limit=task.images, **alike).save(Path(out) / "atlas.parquet")
        return task.images / (time.perf_counter() - started), peak() - before


def compare(options: argparse.Namespace, task: Task, *, memory: bool) -> dict[str, Any]:
    """Print and return what finding costs more than extracting."""
    runs: dict[str, list[tuple[float, float]]] = {"extracting": [], "finding": []}
    for _ in range(options.repeats):
        runs["extracting"].append(alone(extracting, task))
        runs["finding"].append(alone(finding, task))
    rates = {name: statistics.median(rate for rate, _ in values) for name, values in runs.items()}
    peaks = {name: statistics.median(mib for _, mib in values) for name, values in runs.items()}
    print(f"\n{task.model}, {task.images:,} images")
    for name in runs:
        print(f"  {name:12}{rates[name]:8.2f} img/s   peak {peaks[name]:7.1f} MiB")
    above = peaks["finding"] - peaks["extracting"]
    ratio = rates["extracting"] / rates["finding"]
    if memory:
        print(f"  peak above extraction's, MiB    {verdict(above, MEMORY, at_least=False)}")
    else:
        print(f"  time, finding / extracting      {verdict(ratio, TARGETS[task.model], at_least=False)}")
    return {"img/s, MiB": runs, "time": ratio, "MiB above": above}


def write_network(file: Path, network: ViT, patterns: int) -> None:
    """The network with an untrained head of the published shape, whose patterns are all likely somewhere."""
    head = Head(network.embed_dim, patterns)
    for layer in head.mlp:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    weights.save(weights.Weights(network.state_dict(), head.state_dict(), None, Origin()), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_s16,vit_b16", help="separated by commas (default: %(default)s)")
    parser.add_argument("--patterns", type=int, default=8192, help="K (default: %(default)s)")
    parser.add_argument("--images", type=int, default=200, help="whose patterns are found (default: %(default)s)")
    parser.add_argument("--small", type=int, default=20_000, help="small images of a small network, for the memory (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of everything, interleaved (default: %(default)s)")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="of the network")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it runs (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="threads that decode (default: the library's)")
    parser.add_argument("--quick", action="store_true", help="32 images and 2000 small ones, once: to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.images, options.small, options.repeats = 32, 2000, 1
    report: dict[str, Any] = {"machine": machine(), "device": options.device, "patterns": options.patterns}
    report["dtype"] = str(network_dtype(options.dtype)).removeprefix("torch.") if options.device == "cpu" else options.dtype
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), f"\nnetwork in {report['dtype']} on {options.device}")
    extraction = ExtractOptions(dtype=options.dtype, device=options.device, workers=options.workers)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", options.images)
        for model in options.models.split(","):
            dim, heads = WIDTHS[model]
            file = folder / f"{model}.safetensors"
            write_network(file, ViT(img_size=224, patch_size=16, embed_dim=dim, depth=12, num_heads=heads), options.patterns)
            report[model] = compare(options, Task(model, file, folder / "photos", options.images, 0, extraction), memory=False)
        write_links(folder / "small", options.small)
        write_network(folder / "tiny.safetensors", ViT(img_size=64, patch_size=8, embed_dim=64, depth=1, num_heads=1), options.patterns)
        task = Task("a small network", folder / "tiny.safetensors", folder / "small", options.small, 0, replace(extraction, size=64))
        report["memory"] = compare(options, task, memory=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
