"""k-NN classification against the matrix products that it cannot do without: time, and peak memory.

    python -m benchmarks.knn                 10,000 queries of an index of 50,000, length 384; --quick in seconds
    python -m benchmarks.knn --memory        the peak of 50,000 queries of an index of 1.28 million, put together from two runs

Ours is `ibot_hub.evaluation.knn` as `ibot eval knn` calls it: 1000 classes, 10, 20, 100 and 200 neighbours, top-1 and top-5. The bare
products are the same ones in the same chunks, whose results are thrown away. Each measurement has a fresh process; one repeat measures
both, one after the other; figures are medians. Features are random ones around a direction a class. Memory is the peak of the
whole process (VmHWM). The largest case (--images 1281167 --queries 50000 --repeats 1) takes a quarter of an hour; its memory is known
sooner: what an index takes does not depend on the queries, nor what these take on it, so the peak is that of a large index with few
queries, and what many queries take more than few.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import alone, forget_peak, machine, peak, verdict
from ibot_hub.evaluation.knn import INDEX_CHUNK, KS, QUERY_CHUNK, knn

CLASSES = 1000
TIME = 2.5  # times the products
MEMORY = 4e9 / 2**20  # MiB of the largest case
LARGEST = (1_281_167, 50_000)
FEW = (INDEX_CHUNK, QUERY_CHUNK)  # of an index and of queries: one chunk each


def features(count: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """[count, width] around one direction a class, made in place, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % CLASSES
    rows = torch.empty(count, width)
    for part, own in zip(rows.split(10_000), labels.split(10_000), strict=True):
        part.normal_(generator=generator).mul_(3).add_(directions[own])
    return rows, labels


def products(images: int, queries: int, width: int, threads: int) -> tuple[float, float]:
    """Seconds of the bare products, and the peak in MiB."""
    torch.set_num_threads(threads)
    (index, _), (asked, _) = features(images, width, 1), features(queries, width, 2)
    asked[:1] @ index[:1].T
    forget_peak()
    started = time.perf_counter()
    for rows in index.split(INDEX_CHUNK):
        for part in asked.split(QUERY_CHUNK):
            part @ rows.T
    return time.perf_counter() - started, peak()


def ours(images: int, queries: int, width: int, threads: int) -> tuple[float, float]:
    """The same of k-NN, until its numbers are there."""
    torch.set_num_threads(threads)
    (index, labels), (asked, truth) = features(images, width, 1), features(queries, width, 2)
    knn(index[:CLASSES], labels[:CLASSES], asked[:1], truth[:1], (1,))
    forget_peak()
    started = time.perf_counter()
    knn(index, labels, asked, truth, KS)
    return time.perf_counter() - started, peak()


def compare_times(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return what k-NN takes beside its products."""
    size = (options.images, options.queries, options.width, options.threads)
    runs: dict[str, list[tuple[float, float]]] = {"products": [], "k-NN": []}
    for _ in range(options.repeats):
        runs["products"].append(alone(products, *size))
        runs["k-NN"].append(alone(ours, *size))
    print(f"\n{options.queries:,} queries, index of {options.images:,}, length {options.width}, float32, {options.threads} threads")
    seconds = {name: statistics.median(one for one, _ in values) for name, values in runs.items()}
    for name, values in runs.items():
        lowest, highest = min(one for one, _ in values), max(one for one, _ in values)
        mib = statistics.median(most for _, most in values)
        print(f"  {name:10}{seconds[name]:8.2f} s ({lowest:.2f} to {highest:.2f})   peak {mib:6.0f} MiB")
    ratios = [one / bare for (one, _), (bare, _) in zip(runs["k-NN"], runs["products"], strict=True)]
    print(f"  time, k-NN / products           {verdict(statistics.median(ratios), TIME, at_least=False)}")
    return {"seconds, MiB": runs, "ratios": ratios}


def add_peaks(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return the peak of the largest case."""
    images, queries = LARGEST
    cases = {"large index, few queries": (images, FEW[1]), "small index, few": FEW, "small index, many queries": (FEW[0], queries)}
    peaks = {name: alone(ours, *case, options.width, options.threads)[1] for name, case in cases.items()}
    print(f"\n{queries:,} queries, index of {images:,}, length {options.width}, float32; peaks in MiB")
    for name, (index, asked) in cases.items():
        print(f"  {name:28}{index:10,} x {asked:6,}{peaks[name]:9.0f}")
    large, few, many = peaks.values()
    print(f"  together                        {verdict(large + many - few, round(MEMORY), at_least=False)}")
    return {"peaks, MiB": peaks, "together": large + many - few}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="of the index (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=384, help="numbers a feature (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of both, interleaved (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="the peak of the largest case, and no times")
    parser.add_argument("--quick", action="store_true", help="2000 queries of 5000 images, once: to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.quick:
        options.images, options.queries, options.repeats = 5000, 2000, 1
    report: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    report |= add_peaks(options) if options.memory else compare_times(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
