"""What a run starts from: the training state of another run, published or at hand, or the networks of a model."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD, info, list_models
from ibot_hub.errors import StoreError, TrainingError
from ibot_hub.hub.repositories import PREFIX, fetch_state, split_name
from ibot_hub.hub.runs import FROM, TRAINING
from ibot_hub.pairs import Pair, load_pair
from ibot_training import checkpoint
from ibot_training.checkpoint import RECIPE
from ibot_training.clusters import Clusters
from ibot_training.recipe import Recipe, differences
from ibot_training.recipe_file import load_recipe
from ibot_training.shapes import check_shape, shape_of_model, shape_of_recipe
from ibot_training.state import CENTRES, CLUSTERS, misfit, under


@dataclass(frozen=True)
class Start:
    """Where a name leads; nothing of it is read yet."""

    name: str  # as it was said; a path is absolute
    exactly: str  # the same for good: with the commit of a repository, the checkpoint of a run
    state: Path | None = None  # the folder of a checkpoint; None: there are networks alone
    recipe: Path | None = None  # the recipe that comes with it


@dataclass(frozen=True, eq=False)
class Brought:
    """What a start brings to a run: all tensors that a checkpoint of the run's recipe has, but perhaps no moments of AdamW."""

    start: Start
    what: str  # in words
    step: int  # of the other run
    facts: Mapping[str, Any]  # of its checkpoint
    changed: str  # why this is another course of steps, as far as the recipe tells; "" where it tells of no difference
    tensors: Mapping[str, Tensor]


def find_start(name: str, out: Path) -> Start:
    """What a run in `out` starts from, by a name: of a repository of the Hugging Face Hub ("hf-hub:org/name", a revision behind an @), of
    a run's folder or of one of its checkpoints, or of a model as `ibot_hub.load` takes it. The state of a repository is fetched.

    A run that has begun holds all it was brought, so for one nothing is looked for but its own recipe.

    Raises:
        UnknownModelError: neither a path nor a name; DownloadError: nothing can be fetched, or there is no training state;
        StoreError: no checkpoint of the run is whole.
    """
    said = name if name.startswith(PREFIX) or name in list_models() else str(Path(name).absolute())
    if checkpoint.begun(out):
        return Start(said, said, None, out / RECIPE)
    if name.startswith(PREFIX):
        repository, revision = split_name(name)
        snapshot = fetch_state(repository, revision)
        return _with_recipe(Start(said, f"{PREFIX}{repository}@{snapshot.name}", snapshot / TRAINING), snapshot / TRAINING)
    folder = Path(said)
    if os.sep not in name and not folder.exists():
        info(name)  # a name, or its sentence has those that are like it
    if name in list_models() or not folder.is_dir():
        return Start(said, said)
    if (folder / TRAINING / checkpoint.FACTS).is_file():  # a repository that was fetched by other means
        return _with_recipe(Start(said, said, folder / TRAINING), folder / TRAINING)
    if (folder / checkpoint.FACTS).is_file():
        return _with_recipe(Start(said, said, folder), folder.parents[1])
    state = checkpoint.latest(folder, lambda sentence: print(sentence, file=sys.stderr))
    return _with_recipe(Start(said, str(state or folder), state), folder)


def bring(start: Start | None, recipe: Recipe, out: Path) -> Brought | None:
    """What the run in `out` has to be given before its first step; None where it starts from nothing, or has begun.

    Raises:
        TrainingError: the run started from something else, or the recipe is for other networks; WeightsError, DownloadError,
        UnknownModelError: the model cannot be loaded; StoreError: the checkpoint is damaged, or no checkpoint of its recipe.
    """
    began = _read(out)
    if checkpoint.begun(out):
        if start and (began is None or start.name not in (began["from"], began["exactly"])):
            whence = f"started from {began['from']}" if began else "started from nothing"
            raise TrainingError(f"The run in {out} {whence}, not from {start.name}; leave --from out to go on, or choose another --out.")
        return None
    if start is None:
        if began:
            raise TrainingError(f"The run in {out} starts from {began['from']}, which it does not have yet; name that with --from again.")
        return None
    theirs = load_recipe(str(start.recipe)) if start.recipe else None
    if start.state is None:
        pair = load_pair(start.name)
        check_shape(start.name, shape_of_model(pair.student, pair.teacher), recipe)
        brought = Brought(start, _in_words(pair), 0, {}, "there is no state of a run", _tensors_of(pair, recipe))
    else:
        if theirs:
            check_shape(start.name, shape_of_recipe(theirs), recipe)
        state = checkpoint.load(start.state)
        what = f"student, teacher, heads, centres and optimiser after step {state.step}"
        brought = Brought(start, what, state.step, state.facts, _changes(theirs, recipe), state.tensors)
    if wrong := misfit(brought.tensors, recipe):
        raise StoreError(f"{start.name} does not hold what a run of the recipe {recipe.name} has: {wrong}; take the recipe it was made by.")
    return brought


def plant(brought: Brought, out: Path, images: Mapping[str, Any], *, steps: int, total: int) -> None:
    """Make what was brought the first checkpoint of the run, from which it then goes on as any other.

    By the same recipe on the same images that is after as many steps as were done. Else a new course begins at step 0, by the new
    recipe's schedules; AdamW keeps its moments.

    Args:
        images: what a checkpoint says of the images of its run.
        steps, total: of this run, in an epoch and in all.

    Raises:
        TrainingError: all steps were done; StoreError: `out` cannot be written.
    """
    start, tensors = brought.start, dict(brought.tensors)
    same_images = all(brought.facts.get(key) == value for key, value in images.items())
    why = brought.changed or ("" if same_images else "its images are not known to be these")
    step = 0 if why else brought.step
    if step >= total:
        raise TrainingError(
            f"{start.name} was trained to its end, step {step} of {total}, by this recipe on these images; "
            "for a new course change the recipe, as with --set optimiser.epochs=..."
        )
    if why:
        tensors[CLUSTERS] = torch.from_numpy(Clusters().counts())
    _write(out, {"from": start.name, "exactly": start.exactly, "step": brought.step, "goes_on": not why})
    checkpoint.save(out, step, tensors, {"epoch": step / steps, **images})
    begins = f"; the steps begin at 0, because {why}" if start.state else ""
    course = begins if why else f"; recipe and images are the same, so it goes on after step {step}"
    print(f"{start.exactly}: {brought.what}{course}", file=sys.stderr)


def _with_recipe(start: Start, folder: Path) -> Start:
    file = folder / RECIPE
    return Start(start.name, start.exactly, start.state, file) if file.is_file() else start


def _changes(theirs: Recipe | None, recipe: Recipe) -> str:
    if theirs is None:
        return "its recipe is not known"
    keys = [f"{key} is {ours!r} and was {was!r}" for key, was, ours in differences(theirs, recipe)]
    return keys[0] + (f", and {len(keys) - 1} more" if len(keys) > 1 else "") if keys else ""


def _in_words(pair: Pair) -> str:
    """What of a run a pair has, and what it has not."""
    if pair.student is pair.teacher:
        known = pair.teacher.card.network
        network = f"the {known} alone" if known else "one network, which does not say whether it is teacher or student"
        what = f"{network}, so student and teacher both begin as it"
    else:
        what = "student and teacher with their heads"
    absent = [
        *([] if pair.student.mask_token is not None else ["the mask token"]),
        *([] if pair.centres else ["the centres"]),
        "the optimiser",
    ]
    prepared = pair.student.transform
    normalised = (tuple(prepared.mean), tuple(prepared.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    other = "" if normalised else f"; it knows images of the mean {prepared.mean} and std {prepared.std}, a run prepares them by ImageNet's"
    return f"{what}; anew: {', '.join(absent)}{other}"


def _tensors_of(pair: Pair, recipe: Recipe) -> dict[str, Tensor]:
    """As a checkpoint has them."""
    student, teacher = pair.student.state_dict(), pair.teacher.state_dict()
    student.setdefault("mask_token", torch.zeros(1, recipe.network.embed_dim))
    teacher.pop("mask_token", None)
    named = {f"student.{name}": tensor for name, tensor in student.items()}
    named |= {f"teacher.{name}": tensor for name, tensor in teacher.items()}
    patches = under(teacher, "head.last_layer2.").get("weight_g", teacher["head.last_layer.weight_g"])
    centres = pair.centres or (torch.zeros(len(teacher["head.last_layer.weight_g"])), torch.zeros(len(patches)))
    return named | dict(zip(CENTRES, centres, strict=True))


def _read(out: Path) -> dict[str, str] | None:
    """What the run in `out` started from, as it was said and exactly."""
    try:
        content = json.loads((out / FROM).read_bytes())
        return {key: content[key] for key in ("from", "exactly")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{out / FROM} cannot be read ({error}); put a copy back, or choose another --out.") from error


def _write(out: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all; before the checkpoint, without which it says what is still to be brought."""
    partial = out / f"{FROM}.partial"
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(out / FROM)
    except OSError as error:
        raise StoreError(f"{out} cannot be written ({error.strerror or error}); free space, or make the folder writable.") from error
