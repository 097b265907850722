"""One optimiser step: teacher, student, losses, gradients, AdamW, teacher again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibot_training.distributed import World, at_rest, averaging, mean, shard, shared
from ibot_training.losses import cls_share, moved_centre, patch_loss, targets
from ibot_training.networks import Learner, Shown, build_pair, logits_of
from ibot_training.optim import build_optimiser, clip_gradients, follow, pairs, set_rates
from ibot_training.packing import PackedBlock
from ibot_training.passes import Crops, Pass, passes_of, shown
from ibot_training.recipe import Recipe


@dataclass(frozen=True)
class Numbers:
    """What the schedules say of one step."""

    lr: float
    weight_decay: float
    momentum: float  # of the teacher
    cls_temperature: float  # of the teacher
    patch_temperature: float
    last_layer_frozen: bool


@dataclass(frozen=True, eq=False)
class Losses:
    """Means over the whole batch, on the device."""

    total: Tensor
    cls: Tensor
    patch: Tensor
    agreement: Tensor  # share of images whose first crop the teacher puts where the student puts the second
    assigned: Tensor  # int64 [B], the pattern that the teacher finds most likely for each image of this process


@dataclass(eq=False)
class Progress:
    """All that a step changes."""

    recipe: Recipe
    world: World
    student: Learner
    teacher: Learner
    averaged: nn.Module  # the student as its gradients are to be computed: itself, or wrapped for several processes
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    cls_centre: Tensor  # [K]
    patch_centre: Tensor  # [K of patches]
    dtype: torch.dtype  # of products


def begin(recipe: Recipe, world: World, dtype: torch.dtype) -> Progress:
    """Where a run starts: networks drawn from the recipe's seed, centres 0."""
    student, teacher = build_pair(recipe.network, recipe.head, recipe.run.seed)
    student.to(world.device).checkpointing = recipe.run.checkpointing
    teacher.to(world.device)
    if recipe.run.compile:
        for learner in (student, teacher):
            for block in _blocks(learner):
                block.compile()
    if recipe.run.parallel == "fsdp":
        shard(world, student, _blocks(student))
        shard(world, teacher, _blocks(teacher), entrance="features")
    return Progress(
        recipe, world, student, teacher, shared(world, student), build_optimiser(student),
        torch.amp.GradScaler(world.device.type, enabled=dtype == torch.float16),
        torch.zeros(recipe.head.patterns, device=world.device),
        torch.zeros(teacher.head.patch_layer.weight_v.shape[0], device=world.device), dtype,
    )  # fmt: skip


def _blocks(learner: Learner) -> list[nn.Module]:
    """A ViT's blocks; those of a Swin are not called as modules, and small."""
    return [block for block in learner.backbone.modules() if isinstance(block, PackedBlock)]


@dataclass(frozen=True, eq=False)
class _Taught:
    """What the teacher says of a batch: probabilities for the student, and means for the centres."""

    cls: Tensor  # [G, B, K]
    patches: Tensor  # [M, K]
    cls_mean: Tensor  # [K], of logits
    patch_mean: Tensor  # [K]
    assigned: Tensor  # int64 [B], the pattern of each first crop, without centring as everywhere but in the loss


def take_step(progress: Progress, parts: Sequence[Crops], numbers: Numbers) -> Losses:
    """One step over a batch that comes in parts, one after the other.

    The centres move after the losses, once for the whole batch. A loss that is not finite leaves the student as it was: AdamW
    looks at it on the device, so that the host need not wait.
    """
    recipe, world = progress.recipe, progress.world
    set_rates(progress.optimiser, numbers.lr, numbers.weight_decay)
    reports: list[Tensor] = []
    assigned: list[Tensor] = []
    for number, part in enumerate(parts):
        everything = shown(part, world.device)
        taught = _teach(progress, everything, part, numbers)
        passes = passes_of(recipe, everything, part, progress.dtype)
        sums = torch.zeros(4, device=world.device)
        for index, one in enumerate(passes):
            last = number == len(parts) - 1 and index == len(passes) - 1
            sums += _learn(progress, one, taught, len(parts), averaged=last)
        assigned.append(taught.assigned)
        reports.append(torch.cat([sums, taught.cls_mean, taught.patch_mean]))
    report = mean(world, torch.stack(reports).mean(0))
    sums, cls_mean, patch_mean = report.split([4, len(progress.cls_centre), len(progress.patch_centre)])
    _update(progress, numbers, finite=torch.isfinite(sums[0]))
    progress.cls_centre = moved_centre(progress.cls_centre, cls_mean, recipe.loss.centre_momentum)
    progress.patch_centre = moved_centre(progress.patch_centre, patch_mean, recipe.loss.patch_centre_momentum)
    return Losses(sums[0], sums[1], sums[2], sums[3], torch.cat(assigned))


def _learn(progress: Progress, one: Pass, taught: "_Taught", parts: int, *, averaged: bool) -> Tensor:
    """Gradients of one of so many parts; what it adds to loss, [CLS] loss, patch loss and agreement [4]."""
    recipe, loss = progress.recipe, progress.recipe.loss
    views = recipe.crops.global_count + recipe.crops.local_count
    targets_of_cls = taught.cls[:, one.images]  # [G, b, K]
    count = targets_of_cls.shape[1]  # b
    share = count / taught.cls.shape[1]
    with averaging(progress.averaged, averaged):
        with _autocast(progress):
            cls, patches = progress.averaged(one.shown, one.drops)
        own, others = cls.unflatten(0, (-1, count)).split([one.global_crops // count, (len(cls) - one.global_crops) // count])
        on_cls = (
            share
            * torch.stack(
                [
                    cls_share(some, targets_of_cls, loss.student_temperature, views=views, same=some is own)
                    for some in (own, others)
                    if len(some)
                ]
            ).sum()
        )
        on_patches = patch_loss(patches, taught.patches[one.patches], one.weights, loss.student_temperature)
        total = loss.cls_weight * on_cls + loss.patch_weight * on_patches
        progress.scaler.scale(total / parts).backward()
    second = own[min(1, len(own) - 1)].detach() if len(own) else None
    same = taught.assigned[one.images] == second.argmax(-1) if second is not None else torch.zeros(1, device=total.device)
    return torch.stack([total.detach(), on_cls.detach(), on_patches.detach(), share * same.float().mean()])


@torch.no_grad()
def _teach(progress: Progress, everything: Shown, part: Crops, numbers: Numbers) -> _Taught:
    """The teacher sees the global crops whole (and the local ones where their patches are hidden from the student)."""
    loss, teacher = progress.recipe.loss, progress.teacher
    global_count = progress.recipe.crops.global_count
    crops = len(everything.crops[0])
    shown = len([mask for mask in everything.masks if mask is not None])
    patches_of_globals = part.global_masks.numel()
    if loss.patch_weight and loss.patch_centring:
        # the centre is the mean over all patches of the global crops, hidden or not
        everywhere = torch.arange(patches_of_globals, device=everything.wanted.device)
        inside = int(part.global_masks.sum())  # the hidden ones of the globals come first
        wanted = torch.cat([everywhere, everything.wanted[inside:]])
        rows = torch.cat([everything.wanted[:inside], torch.arange(patches_of_globals, len(wanted), device=wanted.device)])
    else:
        wanted, rows = everything.wanted, torch.arange(len(everything.wanted), device=everything.wanted.device)
        patches_of_globals = 0
    with _autocast(progress):
        cls, patches = teacher.features(Shown(everything.crops[:shown], [None] * shown, wanted), None)
        vectors = teacher.head.bottleneck(torch.cat([cls[:crops], patches]))
        of_cls, of_patches = vectors[:crops], vectors[crops:]
        cls_logits, patch_logits = logits_of(teacher.head, torch.cat([of_cls, of_patches[rows]]), crops)
        # the last layer is linear without bias: the mean of its logits is the logits of the mean
        patch_mean = (
            teacher.head.patch_layer(of_patches[:patches_of_globals].float().mean(0, keepdim=True))[0]
            if patches_of_globals
            else progress.patch_centre
        )
    return _Taught(
        targets(cls_logits, progress.cls_centre if loss.centring else None, numbers.cls_temperature).unflatten(0, (global_count, -1)),
        targets(patch_logits, progress.patch_centre if loss.patch_centring else None, numbers.patch_temperature, hard=loss.hard_labels),
        cls_logits.float().mean(0),
        patch_mean.float(),
        cls_logits[: crops // global_count].argmax(-1),
    )


def _update(progress: Progress, numbers: Numbers, *, finite: Tensor) -> None:
    optimiser, student = progress.optimiser, progress.student
    progress.scaler.unscale_(optimiser)
    trained = {name: parameter for name, parameter in student.named_parameters() if parameter.grad is not None}
    limit = progress.recipe.optimiser.clip
    if limit:
        clip_gradients([p.grad for p in trained.values() if p.grad is not None], limit, each=progress.recipe.optimiser.clip_by == "tensor")
    if numbers.last_layer_frozen:
        for name, parameter in trained.items():
            if "last_layer" in name:
                parameter.grad = None
    if not progress.scaler.is_enabled():
        optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by the fused AdamW
    progress.scaler.step(optimiser)
    progress.scaler.update()
    optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        follow(*pairs(dict(at_rest(progress.teacher).named_parameters()), dict(student.named_parameters())), numbers.momentum)


def _autocast(progress: Progress) -> torch.autocast:
    return torch.autocast(progress.world.device.type, progress.dtype, enabled=progress.dtype != torch.float32)
