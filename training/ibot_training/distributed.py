"""Processes: the only file that knows of them; with one, its functions are the identity."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, and the place of this one among them."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes what the run keeps."""
        return self.rank == 0


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, while the run lasts; each takes the GPU of its local rank.

    An error of one ends them all: the first that has one raises it, the others, which can only miss it, leave without a word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # what is on the host goes by gloo, which also notices a process that is gone
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield World(rank, size, device)
    except Exception as error:
        if _is_first(store, rank):
            raise
        sys.exit(getattr(error, "exit_code", 1))
    finally:
        dist.destroy_process_group()


def _is_first(store: Store, rank: int) -> bool:
    """Whether no other process failed before this one."""
    try:
        return bool(store.compare_set("failed", "", str(rank)) == str(rank).encode())
    except dist.DistError:  # the process that kept the store is gone
        return False


def mean(world: World, values: Tensor) -> Tensor:
    """The mean over processes of a tensor that each has."""
    if world.size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world.size


def agreed(world: World, wanted: bool) -> bool:
    """Whether any process wants it: a signal may reach one alone."""
    return any(everyones(world, wanted))


def everyones(world: World, value: T) -> list[T]:
    """What each process has, in the order of their ranks; none goes on before all have come here."""
    if world.size == 1:
        return [value]
    values: list[T] = [value] * world.size
    dist.all_gather_object(values, value)
    return values


def shared(world: World, student: nn.Module) -> nn.Module:
    """The student, its gradients averaged over processes."""
    if world.size == 1 or is_sharded(student):
        return student
    return DistributedDataParallel(student, gradient_as_bucket_view=True)


def shard(world: World, network: nn.Module, blocks: Iterable[nn.Module], entrance: str = "forward") -> None:
    """Leave each process a part of every weight (FSDP2).

    A block has its weights whole while it computes; the others are whole from `entrance`, the method by which the network is entered,
    to the end of the backward pass, or until `at_rest` where there is none.
    """
    if world.size == 1:
        return
    # imported here, as it takes a second that others need not wait
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # the logits, which nobody changes in place
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in (*blocks, network):
        fully_shard(module, mesh=mesh)
    if entrance != "forward":
        register_fsdp_forward_method(network, entrance)


def is_sharded(part: nn.Module | Tensor) -> bool:
    """Whether `shard` was there: of a network, or of a weight or what belongs to it."""
    return hasattr(part, "reshard" if isinstance(part, nn.Module) else "full_tensor")


def at_rest(network: nn.Module) -> nn.Module:
    """The network, whose parameters are what each process has of them."""
    if is_sharded(network):
        network.reshard()  # type: ignore[operator]
    return network


def whole(world: World, tensor: Tensor) -> Tensor:
    """All of a weight, or of what belongs to it, in the process that leads; every process must come here, in the same order."""
    if not is_sharded(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full.cpu() if world.leads else full.new_empty(0)


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What this process has of a whole tensor, in the way in which it has `like`; every process must come here, in the same order."""
    if not is_sharded(like):
        return tensor.to(like.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    share: Tensor = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return share


@contextmanager
def averaging(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradients of a backward pass within are averaged over processes only where wanted: once a step."""
    if isinstance(module, DistributedDataParallel) and not wanted:
        with module.no_sync():
            yield
        return
    if is_sharded(module):
        module.set_requires_gradient_sync(wanted)  # type: ignore[operator]
    yield
