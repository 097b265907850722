"""Attention maps of [CLS] at a large size: memory and time of our way, of a plain forward, and of keeping full maps.

    python -m benchmarks.attention           a few minutes; --quick at 512 pixels

A ViT-S/16 with untrained weights and one image. Memory is the peak (VmHWM) of a fresh process above what is resident once network
and image are there; the time is of a second run in the same process. "Eager" is timm with its fused attention off and a hook on each
block that keeps the map, as users write it. One repeat runs each way once; figures are medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import alone, forget_peak, machine, network_dtype, peak, verdict
from ibot_hub.attention import cls_attention
from ibot_hub.vit import ViT

DEPTH = 12


def plain_forward(network: ViT, images: Tensor) -> list[Tensor]:
    return [network(images).cls]


def ours_all_blocks(network: ViT, images: Tensor) -> list[Tensor]:
    return cls_attention(network, images, range(DEPTH))


def ours_last_block(network: ViT, images: Tensor) -> list[Tensor]:
    return cls_attention(network, images, [-1])


def eager_all_blocks(network: ViT, images: Tensor) -> list[Tensor]:
    """The full softmax of every block, [B, heads, 1 + N, 1 + N]."""
    maps: list[Tensor] = []
    handles = []
    for block in network.blocks:
        attn: Any = block.attn
        attn.fused_attn = False
        handles.append(attn.attn_drop.register_forward_hook(lambda module, inputs, output: maps.append(output)))
    network(images)
    for handle in handles:
        handle.remove()
    return maps


WAYS = {"forward": plain_forward, "all": ours_all_blocks, "last": ours_last_block, "eager": eager_all_blocks}
NAMES = {"forward": "plain forward", "all": "ours, all blocks", "last": "ours, last block", "eager": "eager, all blocks"}


def set_up(size: int, dtype: torch.dtype) -> tuple[ViT, Tensor]:
    """The same network and image [1, 3, size, size] in every process."""
    torch.manual_seed(0)
    network = ViT(img_size=224, patch_size=16, embed_dim=384, depth=DEPTH, num_heads=6).eval()
    with torch.no_grad():
        for block in network.blocks:
            block.attn.qkv.weight[: 2 * 384].mul_(4)  # queries and keys: else [CLS] attends to all alike, and any row looks right
    return network.to(dtype), torch.randn(1, 3, size, size).to(dtype)


def cost(way: str, size: int, dtype: torch.dtype) -> tuple[float, float]:
    """Peak above network and image in MiB, and seconds."""
    network, images = set_up(size, dtype)
    before = forget_peak()
    with torch.inference_mode():
        WAYS[way](network, images)
        above = peak() - before
        started = time.perf_counter()
        WAYS[way](network, images)
    return above, time.perf_counter() - started


def largest_difference(size: int, dtype: torch.dtype) -> tuple[float, float]:
    """Between our maps and the [CLS] rows of the eager ones, over all blocks; and the largest weight in them."""
    network, images = set_up(size, dtype)
    with torch.inference_mode():
        rows = ours_all_blocks(network, images)
        full = eager_all_blocks(network, images)
    differences = [(row.flatten(2) - every[:, :, 0, 1:].float()).abs().max() for row, every in zip(rows, full, strict=True)]
    return float(max(differences)), float(max(row.max() for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="side of the image in pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of everything, interleaved (default: %(default)s)")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="float32", help="of the network")
    parser.add_argument("--quick", action="store_true", help="512 pixels, once: to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.size, options.repeats = 512, 1
    dtype = network_dtype(options.dtype)
    report: dict[str, Any] = {"machine": machine(), "dtype": str(dtype).removeprefix("torch."), "pixels": options.size}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"network in {report['dtype']}, one image of {options.size} x {options.size} pixels\n")
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, values in runs.items():
            values.append(alone(cost, way, options.size, dtype))
    mib = {way: statistics.median(above for above, _ in values) for way, values in runs.items()}
    for way, values in runs.items():
        print(f"{NAMES[way]:18} {mib[way]:8.1f} MiB above the network  {statistics.median(s for _, s in values):7.2f} s")
    ratios = {"all / forward": mib["all"] / mib["forward"], "last / forward": mib["last"] / mib["forward"]}
    share = (mib["all"] - mib["forward"]) / (mib["eager"] - mib["forward"])
    for name, ratio in ratios.items():
        print(f"{name:36} {verdict(ratio, 1.2, at_least=False)}")
    print(f"{'(all - forward) / (eager - forward)':36} {verdict(share, 0.1, at_least=False)}")
    difference, largest = alone(largest_difference, 224, dtype)
    print(f"largest difference from eager at 224 pixels: {difference:.1e}, where the largest weight is {largest:.2f}")
    report |= {"MiB, seconds": runs, "MiB": mib, "ratios": {**ratios, "share of eager": share}, "difference": difference}
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
