"""What a run tells the repository that it is published in: the names of its files, its numbers, its beginning, its steps."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ibot_hub.catalog import list_models
from ibot_hub.errors import StoreError

TRAINING = "training"  # the folder of a run's files in a repository; beside the weights they would make their folder a run's
RECIPE, METRICS = f"{TRAINING}/recipe.toml", f"{TRAINING}/metrics.jsonl"
STATE = (f"{TRAINING}/state.safetensors", f"{TRAINING}/state.json")  # a checkpoint, as it lies in the run
FROM = "from.json"  # in the folder of a run that started from something
_CLUSTERS = {"nmi": "NMI of patterns and classes", "ari": "adjusted Rand index of patterns and classes", "fmi": "Fowlkes-Mallows index"}


@dataclass(frozen=True)
class Score:
    """One number of a model, and whose it is."""

    metric: str
    value: float
    data: str  # what it was measured on
    measured: bool  # by this package; else published by the authors of the weights
    source: str  # who says so

    @property
    def mark(self) -> str:
        return "measured" if self.measured else "published"


def scores_of_run(run: Path) -> tuple[Score, ...]:
    """The last of each number that a run measured of its teacher, on the images it was trained on.

    Raises StoreError if its metrics.jsonl is damaged.
    """
    file = run / Path(METRICS).name
    if not file.exists():
        return ()
    last: dict[str, tuple[float, int]] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            numbers = json.loads(line)
            last |= {name: (value, numbers["step"]) for name, value in numbers.items() if isinstance(value, float) and _metric(name)}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"{file} is damaged ({error}); put a copy back, or remove it to publish the model without its numbers.") from error
    images = "images that the run was trained on"
    return tuple(Score(_metric(name), value, images, True, f"the run itself, at step {step}") for name, (value, step) in last.items())


def _metric(name: str) -> str:
    """What people call a number of metrics.jsonl; "" for what says nothing of the model."""
    neighbours = re.fullmatch(r"knn(\d+)", name)
    return f"k-NN top-1 (k = {neighbours[1]}), %" if neighbours else _CLUSTERS.get(name, "")


def started_from(run: Path) -> str:
    """What the run went on from, for everybody to read: where it lay on its owner's disk is nobody's business. "" where from nothing.

    Raises StoreError if its from.json is damaged.
    """
    file = run / FROM
    if not file.exists():
        return ""
    try:
        start = json.loads(file.read_bytes())["exactly"]
        public = start in list_models() or start.startswith("hf-hub:")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"{file} is damaged ({error}); put a copy back.") from error
    return f"`{start}`" if public else "a run or model that its owner has"


def steps_of(state: Path) -> int:
    """After how many steps the checkpoint in that folder was saved. Raises StoreError if it is none."""
    file = state / Path(STATE[1]).name
    try:
        return int(json.loads(file.read_bytes())["step"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{state} is no checkpoint of a run: {file.name} does not say its step ({error}).") from error
