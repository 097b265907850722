"""The loop of a run, readable top to bottom in the order of time."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD
from ibot_hub.devices import choose_devices, choose_dtype
from ibot_hub.errors import StoppedError, StoreError, TrainingError
from ibot_hub.evaluation.agreement import Counts
from ibot_hub.images import ImageTransform
from ibot_hub.options import DeviceChoice
from ibot_hub.origin import Origin
from ibot_hub.versions import versions
from ibot_training import checkpoint
from ibot_training.batches import Batch, batches
from ibot_training.checkpoint import RECIPE
from ibot_training.clusters import Clusters, agreement
from ibot_training.data import Images, open_images, steps_per_epoch
from ibot_training.distributed import World, agreed, everyones, joined
from ibot_training.loading import decoders
from ibot_training.monitor import Monitor, Skipped
from ibot_training.optim import Schedules, schedules
from ibot_training.probe import glimpse, neighbours
from ibot_training.recipe import Recipe, differences
from ibot_training.recipe_file import load_recipe, to_toml
from ibot_training.resident import Resident, keep_on_device
from ibot_training.signals import Signals
from ibot_training.starting import Start, bring, plant
from ibot_training.state import CLUSTERS, restore, teacher_backbone, tensors_of, under
from ibot_training.step import Losses, Numbers, Progress, begin, take_step

STARTS = "starts.jsonl"  # what started the run, and each time it went on: command, versions, device


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    out: Path
    steps: int
    loss: float  # mean since the record before the last; NaN where nothing was left to do
    leads: bool  # whether this process, of several, is the one to tell


def train(
    recipe: Recipe, source: str, out: Path, *, start: Start | None = None, device: DeviceChoice = "auto", command: Sequence[str] = ()
) -> Trained:
    """Pre-train by `recipe` on the images of `source`; a run in `out` goes on where it was, and `ibot_hub.load(out)` opens it.

    Args:
        source: a folder of images, .tar shards, a list of paths, or `datasets:NAME`; see `ibot_training.data.open_images`.
        start: what a new run starts from, see `ibot_training.starting`; None: networks drawn from the recipe's seed.
        device: auto takes a CUDA GPU, else MPS, else the CPU; torchrun starts one process a GPU.
        command: what was typed, to be written into the run.

    Raises:
        TrainingError: another recipe or start than that of `out`, a start of other networks, or a loss that is not finite;
        StoppedError: SIGTERM or Ctrl-C, all is saved; SourceError: no images, or too few; StoreError: `out` cannot be written.
    """
    with ExitStack() as stack:
        world = stack.enter_context(joined(choose_devices(device)[0]))
        brought = None
        if world.leads:
            stack.enter_context(checkpoint.locked(out))
            brought = bring(start, recipe, out)  # before anything is written, for it may not fit
            _write_down(recipe, out, world, command)
        everyones(world, None)  # none goes on before the folder is this run's
        listed = open_images(source, out)
        skipped = Skipped(out)
        steps_per_epoch(len(listed), recipe.optimiser.batch_size)  # before time is spent on decoding
        images: Images | Resident = listed
        if recipe.run.resident:
            images = keep_on_device(listed, recipe.run.resident, world.device, decoders(recipe), skipped.add)
        steps = steps_per_epoch(len(images), recipe.optimiser.batch_size)
        total = recipe.optimiser.epochs * steps
        known = {"images": listed.digest, "count": len(images)}  # by which a run that starts from a checkpoint knows its images again
        if brought:
            plant(brought, out, known, steps=steps, total=total)
        del brought  # gigabytes
        everyones(world, None)  # none looks for a checkpoint before it is there
        progress = begin(recipe, world, choose_dtype(recipe.run.precision, world.device))
        clusters = Clusters()
        before = _resume(progress, clusters, out)
        monitor = None
        if world.leads:
            monitor = stack.enter_context(
                Monitor(out, skipped, batch_size=recipe.optimiser.batch_size, steps_per_epoch=steps, total_steps=total, start_step=before)
            )
        signals = stack.enter_context(Signals())
        stream = stack.enter_context(closing(batches(images, recipe, start=before, stop=total, world=world, skipped=skipped.add)))

        plan, run = schedules(recipe.optimiser, recipe.loss, recipe.masks, steps), recipe.run
        save_steps = max(1, round(run.save_every * steps))
        pending: list[Losses] = []
        loss = math.nan
        for step in range(before, total):
            parts = list(islice(stream, run.accumulate))
            pending.append(take_step(progress, parts, numbers_of(recipe, plan, step, steps)))
            _count(clusters, pending[-1], parts)
            if monitor:
                monitor.advance(sum(part.waited for part in parts))

            done = step + 1
            epoch_ends, ends, saves = done % steps == 0, done == total, done % save_steps == 0
            if not (done % run.log_every == 0 or epoch_ends or ends or saves or world.device.type == "cpu"):
                continue  # nothing has waited for the GPU so far
            stops = agreed(world, signals.received is not None)
            _check(pending, done, out)
            if done % run.log_every == 0 or epoch_ends or ends or stops:
                loss = _record(monitor, pending, done, numbers_of(recipe, plan, step, steps))
                pending = []
            if epoch_ends:
                _finish_epoch(progress, images, clusters, monitor, parts[-1], done, done // steps)
                clusters = Clusters()
            if saves or ends or stops:
                _save(progress, clusters, out, done, steps, known)
            if stops and not ends:
                raise StoppedError(
                    f"stopped after step {done} of {total}; all is saved in {out}, and the same command goes on.", signals.received or 15
                )
        return Trained(out, total, loss, world.leads)


def numbers_of(recipe: Recipe, plan: Schedules, step: int, steps_per_epoch: int) -> Numbers:
    """What the schedules say of a step; temperatures, and whether the last layer is frozen, go by epochs."""
    epoch = step // steps_per_epoch
    return Numbers(
        float(plan.lr[step]), float(plan.weight_decay[step]), float(plan.momentum[step]),
        float(plan.cls_temperature[epoch]), float(plan.patch_temperature[epoch]), epoch < recipe.optimiser.freeze_last_layer,
    )  # fmt: skip


def _write_down(recipe: Recipe, out: Path, world: World, command: Sequence[str]) -> None:
    """Recipe, command and versions into the run.

    Raises TrainingError if the run there has begun by another recipe, StoreError if nothing can be written there.
    """
    file = out / RECIPE
    begun = file.exists() and checkpoint.begun(out)
    for key, was, wanted in differences(load_recipe(str(file)), recipe) if begun else ():
        raise TrainingError(
            f"The run in {out} has {key} = {was!r}, not {wanted!r}; go on with its own recipe, {file}, or choose another --out."
        )
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else str(world.device)
    start = {"command": shlex.join(["ibot", *command]), "processes": world.size, "device": device, "versions": versions()}
    try:
        if not begun:
            partial = file.with_suffix(".partial")
            partial.write_text(to_toml(recipe), encoding="utf-8")
            partial.replace(file)
        with (out / STARTS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(start) + "\n")
    except OSError as error:
        raise StoreError(f"{out} cannot be written ({error.strerror or error}); free space, or make the folder writable.") from error


def _resume(progress: Progress, clusters: Clusters, out: Path) -> int:
    """The steps that are done, restored from the newest whole checkpoint; 0 where there is none."""

    def warn(sentence: str) -> None:
        if progress.world.leads:
            print(sentence, file=sys.stderr)

    path = checkpoint.latest(out, warn)
    if path is None:
        return 0
    state = checkpoint.load(path)
    restore(progress, state.tensors)
    if progress.world.leads:
        clusters.merge(state.tensors[CLUSTERS].numpy())
        if not checkpoint.is_exported(out, path):  # the run was killed between the two, or has just been given what it starts from
            _export(out, state.tensors)
        if state.step:
            print(f"going on after step {state.step}, from {path}", file=sys.stderr)
    return state.step


def _count(clusters: Clusters, losses: Losses, parts: Sequence[Batch]) -> None:
    labels = [part.labels for part in parts if part.labels is not None]
    if labels:
        clusters.add(losses.assigned, torch.cat(labels).to(losses.assigned.device, non_blocking=True))


def _counts(world: World, clusters: Clusters) -> Counts:
    """What all processes counted of the epoch."""
    together = Clusters()
    for counts in everyones(world, clusters.counts()):
        together.merge(counts)
    return together.counts()


def _check(pending: Sequence[Losses], done: int, out: Path) -> None:
    """Raises TrainingError at the first step whose loss is not finite; its gradients changed nothing, and nothing is saved."""
    for index, total in enumerate(torch.stack([losses.total for losses in pending]).tolist()):
        if not math.isfinite(total):
            step = done - len(pending) + index + 1
            raise TrainingError(
                f"The loss of step {step} is {total}, so the run stopped before it could change the weights; the last checkpoint in {out} "
                "is good. Lower optimiser.lr, or compute in float32 (run.precision), and start another run."
            )


def _record(monitor: Monitor | None, pending: Sequence[Losses], done: int, numbers: Numbers) -> float:
    """The numbers since the last record into the run; their mean loss."""
    rows = [torch.stack([losses.total, losses.cls, losses.patch, losses.agreement]) for losses in pending]
    total, cls, patch, same = torch.stack(rows).mean(0).tolist()
    if monitor:
        values = {"loss": total, "loss_cls": cls, "loss_patch": patch, "agreement": same}
        rates = {"lr": numbers.lr, "weight_decay": numbers.weight_decay, "momentum": numbers.momentum}
        monitor.record(done, values | rates)
    return float(total)


def _finish_epoch(
    progress: Progress, images: Images | Resident, clusters: Clusters, monitor: Monitor | None, batch: Batch, done: int, epoch: int
) -> None:  # fmt: skip
    """What an epoch shows: clusters of all images; every so often k-NN and a picture of masks and attention."""
    run = progress.recipe.run
    classifies = run.knn_every and epoch % run.knn_every == 0
    draws = run.picture_every and epoch % run.picture_every == 0
    counts = _counts(progress.world, clusters)
    backbone = teacher_backbone(progress) if classifies or draws else progress.teacher.backbone
    if monitor is None:
        return
    values = agreement(counts)
    if classifies:
        values |= neighbours(backbone, images, transform_of(progress.recipe), progress.world.device)
    if values:
        monitor.summarise(done, values)
    if draws:
        monitor.picture(done, glimpse(backbone, batch.global_crops, batch.global_masks))


def transform_of(recipe: Recipe) -> ImageTransform:
    """How images are prepared for the network of a recipe."""
    return ImageTransform(size=recipe.network.image_size, patch=recipe.network.cell)


def _save(progress: Progress, clusters: Clusters, out: Path, done: int, steps: int, known: Mapping[str, object]) -> None:
    """The checkpoint of this step, the networks as `ibot_hub.load` opens them, and the end of what need not stay."""
    run, world = progress.recipe.run, progress.world
    counts = torch.from_numpy(_counts(world, clusters))
    tensors = tensors_of(progress)
    if world.leads:
        checkpoint.save(out, done, tensors | {CLUSTERS: counts}, {"epoch": done / steps, **known})
        _export(out, tensors)
        checkpoint.prune(out, done, run.keep, run.keep_every * steps)
    everyones(world, None)  # none says that all is saved before it is


def _export(out: Path, tensors: Mapping[str, Tensor]) -> None:
    origin = Origin(container="run", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    checkpoint.export(out, under(tensors, "teacher."), under(tensors, "student."), origin)
