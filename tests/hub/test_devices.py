"""What runs where, and in which precision."""

import os

import pytest
import torch

from ibot_hub import devices
from ibot_hub.errors import UsageError


def test_the_cpu_always_works_and_the_rest_is_told() -> None:
    assert devices.choose_devices("cpu") == [torch.device("cpu")]
    assert devices.choose_devices("auto")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="sees no cuda device here"):
            devices.choose_devices("cuda")


# This machine has one kind of CPU: what others say of themselves has to be put in its mouth.
@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_bfloat16_only_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert devices.choose_dtype("auto", torch.device("cpu")) == dtype
    assert devices.choose_dtype("float16", torch.device("cpu")) == torch.float16


# GPUs of two generations cannot be had here either.
@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_bfloat16_only_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.choose_dtype("auto", torch.device("cuda", 0)) == dtype


def test_the_choice_agrees_with_the_measurement() -> None:
    rates = devices.measure_products(torch.device("cpu"), seconds=0.1)
    assert set(rates) == set(devices.DTYPES)
    assert all(rate > 0 for rate in rates.values())
    if not devices.cpu_multiplies_bfloat16():
        assert rates["bfloat16"] < rates["float32"]


def test_a_module_is_copied_only_where_it_must_change() -> None:
    cpu, network = torch.device("cpu"), torch.nn.Linear(2, 2).eval()
    assert devices.placed(network, cpu, torch.float32) is network
    other = devices.placed(network, cpu, torch.bfloat16)
    assert (other.weight.dtype, network.weight.dtype) == (torch.bfloat16, torch.float32)
    assert not devices.placed(network.train(), cpu, torch.float32).training
    assert network.training


def test_cores_of_this_process() -> None:
    assert devices.own_cores() == len(os.sched_getaffinity(0))
