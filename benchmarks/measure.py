"""One measurement in a process of its own, with its peak of memory, on a machine that is named."""

import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from ibot_hub.devices import choose_dtype, cpu_multiplies_bfloat16

P = ParamSpec("P")
T = TypeVar("T")


def alone(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The answer of `function` in a fresh process: no threads, caches or peaks of an earlier measurement, or of this process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *args, **kwargs).result()


def forget_peak() -> float:
    """What is resident now, MiB; from now on `peak` is at least that. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """The most that was resident since `forget_peak` (VmHWM), MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def network_dtype(choice: str) -> torch.dtype:
    """What the library takes on this CPU for that --dtype."""
    return choose_dtype(choice, torch.device("cpu"))  # type: ignore[arg-type]  # argparse has checked it


def machine() -> dict[str, str | int | bool]:
    """What a ratio depends on beside the code."""
    cpu = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("ibot-hub", "torch", "timm", "transformers", "pillow")
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),  # waiting threads that spin take the cores from those that decode
        "fast bfloat16": cpu_multiplies_bfloat16(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def verdict(value: float, target: float, *, at_least: bool) -> str:
    reached = value >= target if at_least else value <= target
    return f"{value:6.3f}   {'>=' if at_least else '<='} {target:<5} {'reached' if reached else 'NOT reached'}"
