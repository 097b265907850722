"""From a cached ViT-B/16 to a model ready to use and its first token: time and memory, beside safetensors and timm by hand.

    python -m benchmarks.load           about two minutes; --quick once

An official file with untrained weights comes into a cache of its own first. Then, interleaved, each in a fresh process whose imports are
done and with the file in the page cache: `ibot_hub.load` by name; and `load_file`, timm's model on the meta device without initial weights,
`load_state_dict(assign=True)`. Figures are medians. Memory is the peak (VmHWM) above the process before, once every weight has been read:
pages of a mapped file count from then on. It is in copies: multiples of the file's bytes.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from benchmarks.measure import alone, forget_peak, machine, peak, verdict
from ibot_hub import loading
from ibot_hub.catalog import info
from ibot_hub.hub import files
from ibot_hub.vit import ViT

NAME = "vit_b16_rand"  # the catalogue knows no digest of it, so untrained weights may stand in
TIME, COPIES = 1.3, 1.1  # targets: times by hand, copies of the weights


def ours(file: Path) -> nn.Module:
    return loading.load(NAME)


def by_hand(file: Path) -> nn.Module:
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in safetensors.torch.load_file(file).items()}
    with torch.device("meta"):
        model: nn.Module = timm.create_model("vit_base_patch16_224", num_classes=0, weight_init="skip")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


WAYS = {"ours": ours, "by hand": by_hand}


def seconds(way: str, file: Path) -> tuple[float, float]:
    """Until the model is there, and until the tokens of one image are."""
    images = torch.zeros(1, 3, 224, 224)
    started = time.perf_counter()
    model = WAYS[way](file)
    loaded = time.perf_counter() - started
    with torch.inference_mode():
        model(images)
    return loaded, time.perf_counter() - started


def copies(way: str, file: Path) -> float:
    """The peak of loading and of reading each weight once, in multiples of the file."""
    before = forget_peak()
    model = WAYS[way](file)
    with torch.inference_mode():
        for tensor in model.state_dict().values():
            tensor.sum()
    return (peak() - before) * 2**20 / file.stat().st_size


def cached(folder: Path) -> Path:
    """Untrained weights as the official file in `folder`, and the file that they become in the cache beside it."""
    os.environ |= {"IBOT_HUB_MIRROR": str(folder / "mirror"), "IBOT_HUB_CACHE": str(folder / "cache")}
    entry = info(NAME)
    official = folder / "mirror" / entry.folder / str(entry.backbone_file)
    official.parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = ViT(img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12)
    torch.save({"state_dict": network.state_dict()}, official)
    file = files.fetch(entry)
    official.unlink()
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="of everything, interleaved (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="once: to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        file = cached(Path(folder))
        print(f"a cached ViT-B/16 of {file.stat().st_size / 1e6:.0f} MB\n")
        for _ in range(1 if options.quick else options.repeats):
            for way, values in runs.items():
                values.append(alone(seconds, way, file))
        held = {way: alone(copies, way, file) for way in WAYS}
    median = {way: [statistics.median(stage) for stage in zip(*values, strict=True)] for way, values in runs.items()}
    for way, values in runs.items():
        low, high = min(values)[0], max(values)[0]
        loaded, first = median[way]
        print(f"{way:8} model {1000 * loaded:6.1f} ms ({1000 * low:.1f} to {1000 * high:.1f})   first token {1000 * first:6.1f} ms")
    ratios = [mine / theirs for mine, theirs in zip(median["ours"], median["by hand"], strict=True)]
    print()
    for name, ratio in zip(("model, ours / by hand", "first token, ours / by hand"), ratios, strict=True):
        print(f"{name:28} {verdict(ratio, TIME, at_least=False)}")
    for way, value in held.items():
        print(f"{'copies, ' + way:28} {verdict(value, COPIES, at_least=False)}")
    report |= {"seconds": runs, "ratios": ratios, "copies": held}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
