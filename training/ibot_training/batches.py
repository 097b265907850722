"""What a step learns from, made ahead of it."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_training.batched import augment, normalise
from ibot_training.data import Images, Numbers, epoch_order, steps_per_epoch
from ibot_training.distributed import World
from ibot_training.loading import Loaded, Pixels, decoders, generator, load_crops, load_image
from ibot_training.masking import masks_of
from ibot_training.recipe import Recipe
from ibot_training.resident import Resident
from ibot_training.views import draw_batch

AHEAD = 3  # batches that are begun before a GPU needs them


@dataclass(frozen=True, eq=False)
class Batch:
    """B images of one step, which go through the networks at once; view-major: all images of view 0, then those of view 1."""

    step: int
    global_crops: Tensor  # float32 [G * B, 3, S, S] on the device, normalised
    local_crops: Tensor | None  # float32 [L * B, 3, s, s] on the device; None without local crops
    global_masks: Tensor  # bool [G * B, H, W] on the host, True is hidden
    local_masks: Tensor | None  # bool [L * B, h, w] on the host, where local crops are masked too
    drops: Tensor  # float32 [(G + L) * B, 2 * blocks] on the host, uniform in 0..1, for stochastic depth
    labels: Tensor | None  # int64 [B] on the host; None where there are no classes
    waited: float = 0.0  # seconds that the caller waited


@dataclass(frozen=True, eq=False)
class Share:
    """The images of a step that one process takes at once."""

    step: int
    epoch: int
    numbers: Numbers  # [B], of images
    positions: range  # B places in the batch, which all processes share


@dataclass(frozen=True, eq=False)
class Made:
    """A batch, perhaps still on its way to the device."""

    batch: Batch
    broken: Sequence[tuple[str, str]]  # images that could not be read: name, reason
    ready: torch.cuda.Event | None


def batches(
    images: Images | Resident, recipe: Recipe, *, start: int, stop: int, world: World, skipped: Callable[[str, str], None]
) -> Generator[Batch, None, None]:
    """The batches of this process for steps `start` to `stop` - 1: `run.accumulate` of them a step.

    What is in them depends on the recipe's seed, the step and the place in the batch alone: not on processes, parts, threads, nor on
    where a run was interrupted. A broken image gives its place to another; `skipped` hears its name and what is wrong, once.

    For a GPU batches are made ahead, by threads and on a stream of their own. On a CPU the threads rest while a batch is in use: they
    and the network lose more by taking turns on the cores than working at the same time could win.

    Raises:
        SourceError: too few images for a batch, or too many that cannot be read; UsageError: a batch that cannot be shared out evenly.
    """
    device, told = world.device, set[str]()
    stream = _own_stream(device)
    ahead = AHEAD if stream else 1
    shares = shares_of(len(images), recipe, start, stop, world)
    pool = ThreadPoolExecutor(decoders(recipe), thread_name_prefix="decode")
    assembler = ThreadPoolExecutor(1, thread_name_prefix="assemble")
    queue: deque[Callable[[], Made]] = deque()

    def begun(share: Share) -> Callable[[], Made]:
        loading = [] if isinstance(images, Resident) else _load(images, recipe, share, device, pool)
        make = partial(_made, images, recipe, share, loading, device, stream)
        return assembler.submit(make).result if stream else make

    def next_batch() -> Batch | None:
        asked = time.perf_counter()
        queue.extend(map(begun, islice(shares, ahead - len(queue))))
        if not queue:
            return None
        made = queue.popleft()()
        for name, reason in made.broken:
            if name not in told:
                told.add(name)
                skipped(name, reason)
        return replace(_received(made), waited=time.perf_counter() - asked)

    try:
        yield from iter(next_batch, None)  # nothing here holds a batch while the next is made
    finally:
        pool.shutdown(cancel_futures=True)
        assembler.shutdown(cancel_futures=True)


def shares_of(count: int, recipe: Recipe, start: int, stop: int, world: World) -> Iterator[Share]:
    """What this process takes of steps `start` to `stop` - 1, from `count` images. Raises as `batches` does."""
    size, parts = recipe.optimiser.batch_size, recipe.run.accumulate
    if size % (world.size * parts):
        raise UsageError(f"optimiser.batch_size is {size}; it must be a multiple of {world.size} processes x {parts} (run.accumulate).")
    steps, own = steps_per_epoch(count, size), size // (world.size * parts)
    ordered, order = -1, np.empty(0, dtype=np.int64)
    for step in range(start, stop):
        epoch, index = divmod(step, steps)
        if epoch != ordered:
            ordered, order = epoch, epoch_order(recipe.run.seed, epoch, count)
        batch = order[index * size : (index + 1) * size]
        for part in range(parts):
            first = (part * world.size + world.rank) * own
            yield Share(step, epoch, batch[first : first + own], range(first, first + own))


def assemble(images: Images | Resident, recipe: Recipe, share: Share, loaded: Sequence[Loaded], device: torch.device) -> Batch:
    """The batch of a share; `loaded` are its images, none where they are resident."""
    if isinstance(images, Resident):
        numbers, rngs = share.numbers, [generator(recipe.run.seed, share.step, position) for position in share.positions]
        squares = images.pixels[torch.from_numpy(numbers).to(device)]  # [B, 3, side, side]
        crops = _augmented(recipe, squares, rngs)
    else:
        numbers, rngs = np.array([image.number for image in loaded]), [image.rng for image in loaded]
        if _is_batched(recipe, device):
            crops = _augmented(recipe, _sent_images([image.pixels[0] for image in loaded], device), rngs)
        else:
            crops = _stacked(recipe, [image.pixels for image in loaded], device)
    global_masks, local_masks = zip(*(masks_of(recipe, share.epoch, rng) for rng in rngs), strict=True)
    shape = (recipe.crops.global_count + recipe.crops.local_count, 2 * sum(recipe.network.depths))
    return Batch(
        share.step,
        *crops,
        _view_major(global_masks, device),
        None if local_masks[0] is None else _view_major(local_masks, device),
        _view_major([rng.random(shape, dtype=np.float32) for rng in rngs], device),
        None if images.labels is None else torch.from_numpy(images.labels[numbers]),
    )


def _is_batched(recipe: Recipe, device: torch.device) -> bool:
    pipeline = recipe.augmentation.pipeline
    return pipeline == "batched" or (pipeline == "auto" and device.type == "cuda")


def _load(images: Images, recipe: Recipe, share: Share, device: torch.device, pool: ThreadPoolExecutor) -> list[Future[Loaded]]:
    load = load_image if _is_batched(recipe, device) else load_crops

    def at(number: int, position: int) -> Loaded:
        return load(images, recipe, number, generator(recipe.run.seed, share.step, position))

    return [pool.submit(at, number, position) for number, position in zip(share.numbers.tolist(), share.positions, strict=True)]


def _augmented(recipe: Recipe, images: Tensor | list[Tensor], rngs: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor | None]:
    """uint8 [B, 3, h, w], or [3, h, w] B times, on the device -> global and local crops."""
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    return augment(images, draw_batch(recipe.crops, recipe.augmentation, sizes, rngs), recipe.crops)


def _stacked(recipe: Recipe, crops: Sequence[Sequence[Pixels]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """B times the crops uint8 [3, S, S] of an image, global ones first -> global and local crops."""
    views = list(zip(*crops, strict=True))  # [G + L][B]
    count = recipe.crops.global_count
    big, small = ([crop for view in group for crop in view] for group in (views[:count], views[count:]))
    return _sent_crops(big, device), _sent_crops(small, device) if small else None


def _sent_crops(crops: Sequence[Pixels], device: torch.device) -> Tensor:
    """uint8 [3, S, S] each -> float32 [N, 3, S, S] on the device, normalised there."""
    host = _host((len(crops), *crops[0].shape), device)
    np.stack(crops, out=host.numpy())
    return normalise(host.to(device, non_blocking=True))


def _sent_images(images: Sequence[Pixels], device: torch.device) -> list[Tensor]:
    """uint8 [h, w, 3 or 4] each -> [3, h, w] each on the device, channels last in memory, by one copy for all."""
    host = _host((sum(image.size for image in images),), device)
    np.concatenate([image.ravel() for image in images], out=host.numpy())
    parts = host.to(device, non_blocking=True).split([image.size for image in images])
    return [part.view(image.shape).permute(2, 0, 1)[:3] for part, image in zip(parts, images, strict=True)]


def _host(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """uint8 memory of the host that a GPU copies from by itself."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _view_major(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> Tensor:
    """[C, ...] of each of B images -> [C * B, ...] on the host."""
    tensor = torch.from_numpy(np.stack(arrays, axis=1)).flatten(0, 1)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _own_stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # resident images were put there
    return stream


def _made(
    images: Images | Resident,
    recipe: Recipe,
    share: Share,
    loading: Sequence[Future[Loaded]],
    device: torch.device,
    stream: torch.cuda.Stream | None,
) -> Made:
    loaded = [future.result() for future in loading]
    broken = [each for image in loaded for each in image.broken]
    if stream is None:
        return Made(assemble(images, recipe, share, loaded, device), broken, None)
    with torch.cuda.stream(stream):
        return Made(assemble(images, recipe, share, loaded, device), broken, stream.record_event())


def _received(made: Made) -> Batch:
    """The batch; what the caller does with it on the device comes after its arrival."""
    if made.ready is not None:
        stream = torch.cuda.current_stream(made.batch.global_crops.device)
        stream.wait_event(made.ready)
        for crops in (made.batch.global_crops, made.batch.local_crops):
            if crops is not None:
                crops.record_stream(stream)  # its memory belongs to the stream that it was made on
    return made.batch
