"""Where a network runs, and in which precision it runs fast there."""

import copy
import os
import time
from typing import TypeVar

import torch
from torch import nn

from ibot_hub.errors import UsageError
from ibot_hub.linear import Reordered, reorder
from ibot_hub.options import DeviceChoice, DtypeChoice

Module = TypeVar("Module", bound=nn.Module)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_devices(choice: DeviceChoice) -> list[torch.device]:
    """The devices meant by `choice`: every CUDA GPU of the machine, or one MPS, or the CPU.

    Raises:
        UsageError: there is none of that kind.
    """
    cuda = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
    cpu = [torch.device("cpu")]
    found = {"auto": cuda or mps or cpu, "cuda": cuda, "mps": mps, "cpu": cpu}[choice]
    if not found:
        raise UsageError(
            f"PyTorch {torch.__version__} sees no {choice} device here; `ibot doctor` shows what it sees, `--device cpu` always works."
        )
    return found


def choose_dtype(choice: DtypeChoice, device: torch.device) -> torch.dtype:
    """The precision meant by `choice`; "auto" is what multiplies fastest on `device` and keeps the features' worth."""
    if choice != "auto":
        return DTYPES[choice]
    if device.type == "cuda":
        # older GPUs are fast in float16 alone, whose range some networks leave
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if device.type == "cpu" and cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AMX, AVX512-BF16); without, they are far slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities:
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    tests = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(test() for test in tests if test)


def measure_products(device: torch.device, seconds: float = 0.2, side: int = 512) -> dict[str, float]:
    """GFLOP/s of square matrix products in each precision, measured now for about `seconds` each."""
    rates = {}
    for name, dtype in DTYPES.items():
        a = torch.ones(side, side, device=device, dtype=dtype)
        _finish(a @ a)
        count, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds or not count:
            _finish(a @ a)
            count += 1
        rates[name] = 2e-9 * side**3 * count / elapsed
    return rates


def _finish(result: torch.Tensor) -> None:
    """Wait for the device: one value can only be read when it is there."""
    result[0, 0].item()


def placed(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """A copy for inference, in eval mode, or the module itself where nothing has to change: the caller's stays as it was."""
    weight = next(module.parameters())
    if any(isinstance(part, Reordered) for part in module.modules()):
        raise ValueError("what was placed for inference in bfloat16 cannot be placed again")
    reordered = device.type == "cpu" and dtype == torch.bfloat16
    if weight.device == device and weight.dtype == dtype and not module.training and not reordered:
        return module
    copied = copy.deepcopy(module).to(device, dtype).eval()
    if reordered:
        reorder(copied)
    return copied


def own_cores() -> int:
    """The cores that this process may use; a job of a cluster often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
