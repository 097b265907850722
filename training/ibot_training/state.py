"""All that a step changes, as named tensors, and back."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ibot_hub.backbones import Backbone, build_backbone
from ibot_hub.errors import StoreError
from ibot_hub.origin import Origin
from ibot_hub.weights import Weights
from ibot_training.distributed import is_sharded, share_of, whole
from ibot_training.networks import Learner
from ibot_training.recipe import Recipe
from ibot_training.step import Progress

CENTRES = ("cls_centre", "patch_centre")
CLUSTERS = "clusters"  # what was counted of the epoch under way, which a checkpoint holds too
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW


def tensors_of(progress: Progress) -> dict[str, Tensor]:
    """Networks, moments of AdamW, centres and the scaler: what a checkpoint must hold for a run to go on bit for bit.

    They are whole in the process that leads; all must come here. There is no state of random generators: all that is drawn is a
    function of seed, step and place in the batch.
    """
    named = {f"student.{name}": tensor for name, tensor in progress.student.state_dict().items()}
    named |= {f"teacher.{name}": tensor for name, tensor in progress.teacher.state_dict().items()}
    named |= {name: getattr(progress, name) for name in CENTRES}
    for name, parameter in _trained(progress.student).items():
        for key, value in progress.optimiser.state.get(parameter, {}).items():
            named[f"optimiser.{key}.{name}"] = value
    for key, number in progress.scaler.state_dict().items():
        named[f"scaler.{key}"] = torch.tensor(number, dtype=torch.float64)
    return {name: whole(progress.world, tensor) for name, tensor in named.items()}


def restore(progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `tensors_of` named, however many processes had it then.

    Raises:
        StoreError: a tensor is missing, left over or of another shape.
    """
    try:
        for network in ("student", "teacher"):
            module = getattr(progress, network)
            own = module.state_dict()
            saved = under(tensors, f"{network}.")
            module.load_state_dict({name: share_of(tensor, own[name]) if name in own else tensor for name, tensor in saved.items()})
        for name in CENTRES:
            getattr(progress, name).copy_(tensors[name])
    except (RuntimeError, KeyError) as error:
        raise StoreError(f"The checkpoint does not hold the networks of this recipe: {str(error).splitlines()[-1].strip()}") from error
    for name, parameter in _trained(progress.student).items():
        # the last layer has no moments as long as it is frozen
        found = {key: tensors.get(f"optimiser.{key}.{name}") for key in MOMENTS}
        moments = {key: value for key, value in found.items() if value is not None}
        progress.optimiser.state[parameter] = {
            key: share_of(value, parameter) if value.ndim else value.to(progress.world.device, copy=True) for key, value in moments.items()
        }
    scaler = {key: value.item() for key, value in under(tensors, "scaler.").items()}
    if scaler:
        whole_numbers = {key: int(scaler[key]) for key in ("growth_interval", "_growth_tracker")}
        progress.scaler.load_state_dict(scaler | whole_numbers)


def misfit(tensors: Mapping[str, Tensor], recipe: Recipe) -> str:
    """What keeps these from being the tensors of a checkpoint of `recipe`, by the first that is missing, left over or another; else ""."""
    with torch.device("meta"):
        student, teacher = (Learner(recipe.network, recipe.head, student=own) for own in (True, False))
    wanted = {f"student.{name}": tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    wanted |= {f"teacher.{name}": tuple(tensor.shape) for name, tensor in teacher.state_dict().items()}
    wanted |= zip(CENTRES, ((recipe.head.patterns,), (len(teacher.head.patch_layer.weight_v),)), strict=True)
    for name, parameter in student.named_parameters():
        moments = {f"optimiser.{key}.{name}": () if key == "step" else tuple(parameter.shape) for key in MOMENTS}
        wanted |= moments if moments.keys() & tensors.keys() else {}
    wanted |= {name: () for name in tensors if name.startswith("scaler.")}
    wanted |= {CLUSTERS: (*tensors[CLUSTERS].shape[:1], 3)} if CLUSTERS in tensors else {}
    for name in (*wanted, *(name for name in tensors if name not in wanted)):
        if name not in tensors:
            return f"{name} is not there"
        if name not in wanted:
            return f"{name} is left over"
        if tensors[name].shape != wanted[name]:
            return f"{name} is {tuple(tensors[name].shape)}, should be {wanted[name]}"
        dtype = {CLUSTERS: torch.int64}.get(name, torch.float64 if name.startswith("scaler.") else torch.float32)
        if tensors[name].dtype != dtype:
            return f"{name} is {tensors[name].dtype}, should be {dtype}"
    return ""


def teacher_backbone(progress: Progress) -> Backbone:
    """The teacher's backbone, whole in the process that leads: itself, or a copy where it is in shards; all must come here."""
    backbone = progress.teacher.backbone
    if not is_sharded(progress.teacher):
        return backbone
    tensors = {name: whole(progress.world, tensor) for name, tensor in backbone.state_dict().items()}
    if not progress.world.leads:
        return backbone
    copy: Backbone = build_backbone(Weights(tensors, None, None, Origin()), Path("teacher")).to(progress.world.device)
    return copy


def _trained(student: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, by what follows."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
