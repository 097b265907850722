"""Rows with labels on two sides, and whether they fit together."""

from torch import Tensor

from ibot_hub.errors import UsageError


def check_sides(train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor) -> None:
    """Raises UsageError for rows, lengths or labels that do not fit together, or for features that are not finite.

    Labels are whole numbers from 0 on, and every one of `val` must be among those of `train`.
    """
    for name, features, labels in (("training", train, train_labels), ("validation", val, val_labels)):
        if features.ndim != 2 or not len(features) or labels.shape != features.shape[:1]:
            shapes = f"features {list(features.shape)} and labels {list(labels.shape)}"
            raise UsageError(f"The {name} side must be rows of features with one label a row; these are {shapes}.")
        broken = (~features.isfinite().all(dim=1)).nonzero()
        if len(broken):
            raise UsageError(f"Feature {int(broken[0, 0])} of the {name} side is not finite: the weights or the precision are wrong.")
    if train.shape[1] != val.shape[1]:
        raise UsageError(f"Training features have length {train.shape[1]}, those of validation {val.shape[1]}.")
    known = set(train_labels.tolist())
    if min(known) < 0:
        raise UsageError(f"Label {min(known)} is below 0; labels are the places of the classes.")
    missing = sorted(set(val_labels.tolist()) - known)
    if missing:
        raise UsageError(f"Class {missing[0]} has no training image; {len(missing)} classes of the validation side have none.")
