"""Extraction against its own limit, and against what users of timm and of transformers write.

    python -m benchmarks.extract             speed; --quick in a few minutes
    python -m benchmarks.extract --memory    memory instead, for 1,000, 10,000 and 20,000 small images and a tiny network

Every rate is images a second. Each measurement has a fresh process, so that no thread pool, allocator or cache of one is there for
the next; importing, loading the model and a first batch are not timed. One repeat measures each thing once, one after the other, so
that a machine that changes its speed changes it for all; a rate is the median of the repeats. Networks have untrained weights.
"""

import argparse
import json
import os
import random
import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageOps

import ibot_hub
from benchmarks.measure import alone, forget_peak, machine, network_dtype, peak, verdict
from benchmarks.rates import MEASURES, WIDTHS, Task
from ibot_hub import weights
from ibot_hub.options import ExtractOptions
from ibot_hub.origin import Origin
from ibot_hub.vit import ViT

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
TARGETS = {  # of the ratios; those against peers are for 2 cores that multiply bfloat16 fast
    "vit_s16": {"ours / limit": 0.9, "ours / timm": 3.8, "ours / transformers": 3.2},
    "vit_b16": {"ours / limit": 0.9, "ours / timm": 4.5, "ours / transformers": 4.5},
}


def ratios(rates: dict[str, float]) -> dict[str, float]:
    limit = 1 / (1 / rates["forward"] + 1 / rates["decode"])
    return {"ours / limit": rates["ours"] / limit, **{f"ours / {peer}": rates["ours"] / rates[peer] for peer in ("timm", "transformers")}}


def speed(options: argparse.Namespace, tasks: list[Task]) -> dict[str, Any]:
    """Print and return the rates and ratios of each model."""
    all_rates: dict[str, dict[str, list[float]]] = {task.model: {name: [] for name in MEASURES} for task in tasks}
    for repeat in range(options.repeats):
        for task in tasks:
            for name, measure in MEASURES.items():
                all_rates[task.model][name].append(alone(measure, task))
            print(f"repeat {repeat + 1}, {task.model}:", {name: round(values[-1], 2) for name, values in all_rates[task.model].items()})
    report: dict[str, Any] = {}
    for model, rates in all_rates.items():
        medians = {name: statistics.median(values) for name, values in rates.items()}
        report[model] = {"img/s": rates, "medians": medians, "ratios": ratios(medians), "targets": TARGETS[model]}
        print(f"\n{model}, images a second: median (lowest to highest of {options.repeats})")
        for name, values in rates.items():
            print(f"  {name:22}{medians[name]:8.2f}   ({min(values):.2f} to {max(values):.2f})")
        for name, value in report[model]["ratios"].items():
            print(f"  {name:22}  {verdict(value, TARGETS[model][name], at_least=True)}")
    print("\nlimit = 1 / (1 / forward + 1 / decode). The targets against peers are for bfloat16 on a CPU that multiplies it fast.")
    return report


def peak_of_extraction(task: Task) -> tuple[float, float]:
    """MiB: what is resident with the model loaded, and the most while `task.images` are extracted."""
    model = ibot_hub.load(task.checkpoint)
    before = forget_peak()
    with TemporaryDirectory() as out:
        ibot_hub.extract(model, task.photos, out, task.options, limit=task.images)
    return before, peak()


def memory(options: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Print and return how the peak depends on the number of images."""
    few, half, all_images = task.images // 20, task.images // 2, task.images
    runs: dict[int, list[tuple[float, float]]] = {few: [], half: [], all_images: []}
    for _ in range(options.repeats):
        for count, values in runs.items():
            values.append(alone(peak_of_extraction, replace(task, images=count)))
    above = {count: statistics.median(top - before for before, top in values) for count, values in runs.items()}
    whole = {count: statistics.median(top for _, top in values) for count, values in runs.items()}
    for count, mib in above.items():
        print(f"{count:7,} images: peak {whole[count]:7.1f} MiB, of which above the loaded model {mib:6.1f}")
    ratios = {"of the process": whole[all_images] / whole[few], "above the model": above[all_images] / above[few]}
    for name, ratio in ratios.items():
        print(f"{all_images:,} / {few:,}, peak {name:16}{verdict(ratio, 1.15, at_least=False)}")
    growth = (above[all_images] - above[half]) / (all_images - half) * 1024
    print(f"growth from {half:,} to {all_images:,}: {growth:.3f} KiB an image")
    return {"MiB before, at the peak": runs, "ratios": ratios, "KiB an image": growth}


def write_photos(folder: Path, count: int) -> None:
    """`count` different JPEGs of about 500 x 375: cuts of the example photographs, some mirrored."""
    folder.mkdir()
    originals = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.iterdir())]
    choose = random.Random(0)
    for index in range(count):
        photo = originals[index % len(originals)]
        width = choose.uniform(0.8, 1) * min(photo.width, photo.height * 4 / 3)
        left, top = choose.uniform(0, photo.width - width), choose.uniform(0, photo.height - width * 3 / 4)
        size = choose.randint(480, 520)
        cut = photo.resize((size, size * 3 // 4), Image.Resampling.LANCZOS, (left, top, left + width, top + width * 3 / 4))
        (ImageOps.mirror(cut) if choose.random() < 0.5 else cut).save(folder / f"{index:06d}.jpg", quality=90)


def write_links(folder: Path, count: int) -> None:
    """`count` names of one JPEG of 64 x 64 an example photograph."""
    folder.mkdir()
    originals = sorted(PHOTOS.iterdir())
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if index < len(originals):
            Image.open(originals[index]).convert("RGB").resize((64, 64)).save(path)
        else:
            os.link(folder / f"{index % len(originals):06d}.jpg", path)


def write_network(file: Path, network: ViT) -> None:
    weights.save(weights.Weights(network.state_dict(), None, None, Origin()), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_s16,vit_b16", help="separated by commas (default: %(default)s)")
    parser.add_argument("--images", type=int, default=600, help="of our extraction and of decoding (default: %(default)s)")
    parser.add_argument("--few", type=int, default=192, help="images of forward-only and of the peers (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of everything, interleaved (default: %(default)s)")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="of our network")
    parser.add_argument("--workers", type=int, help="threads that decode in our extraction (default: the library's)")
    parser.add_argument("--quick", action="store_true", help="48 images, 32 for the slow ones, once: to see that all runs")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.images, options.few, options.repeats = 48, 32, 1
    report: dict[str, Any] = {"machine": machine(), "dtype": str(network_dtype(options.dtype)).removeprefix("torch.")}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), f"\nnetwork in {report['dtype']}")
    extraction = ExtractOptions(dtype=options.dtype, device="cpu", workers=options.workers)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if options.memory:
            count = 2000 if options.quick else 20_000
            write_links(folder / "photos", count)
            write_network(folder / "tiny.safetensors", ViT(img_size=64, patch_size=16, embed_dim=64, depth=1, num_heads=1))
            task = Task("tiny", folder / "tiny.safetensors", folder / "photos", count, 0, extraction)
            report["memory"] = memory(options, task)
        else:
            write_photos(folder / "photos", options.images)
            tasks = []
            for model in options.models.split(","):
                dim, heads = WIDTHS[model]
                file = folder / f"{model}.safetensors"
                write_network(file, ViT(img_size=224, patch_size=16, embed_dim=dim, depth=12, num_heads=heads))
                tasks.append(Task(model, file, folder / "photos", options.images, options.few, extraction))
            report["speed"] = speed(options, tasks)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
