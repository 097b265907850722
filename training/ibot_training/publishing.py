"""What of a run is published so that others can go on from it."""

import sys
from pathlib import Path

from ibot_hub.errors import StoreError, UsageError
from ibot_training import checkpoint


def state_to_publish(run: Path) -> Path:
    """The newest whole checkpoint of a run, whose exported networks are the very ones in it.

    Raises:
        UsageError: the folder is none of a run; StoreError: it has no whole checkpoint, or its networks are of another step.
    """
    if not (run / checkpoint.RECIPE).is_file():
        raise UsageError(f"{run} is no run's folder, and only a run has a training state; name the folder that `ibot train` wrote (--out).")
    path = checkpoint.latest(run, lambda sentence: print(sentence, file=sys.stderr))
    if path is None:
        raise StoreError(f"The run in {run} has no checkpoint yet; wait for its first, or stop it (Ctrl-C), which saves one.")
    if not checkpoint.is_exported(run, path):
        raise StoreError(
            f"The networks in {run} are not those of its checkpoint {path.name}: the run is saving, or was killed while it did; "
            "wait a moment, or start its command again, which puts that right."
        )
    return path
