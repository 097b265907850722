"""What does not fit together is refused in one sentence."""

from typing import Any

import pytest
import torch

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.sides import check_sides

FITS = {"train": torch.ones(30, 4), "train_labels": torch.arange(30) % 10, "val": torch.ones(10, 4), "val_labels": torch.arange(10)}


def broken(rows: int, row: int, value: float) -> torch.Tensor:
    features = torch.ones(rows, 4)
    features[row, 2] = value
    return features


def test_what_fits_is_taken() -> None:
    check_sides(**FITS)
    check_sides(**{**FITS, "val": torch.ones(1, 4), "val_labels": torch.tensor([7])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": torch.ones(30)}, r"The training side must be rows of features with one label a row; these are features \[30\]"),
        ({"val_labels": torch.arange(9)}, r"The validation side must be rows .* features \[10, 4\] and labels \[9\]"),
        ({"val": torch.ones(0, 4), "val_labels": torch.arange(0)}, "The validation side must be rows"),
        ({"val": torch.ones(10, 5)}, "Training features have length 4, those of validation 5"),
        ({"train": broken(30, 25, torch.nan)}, "Feature 25 of the training side is not finite"),
        ({"val": broken(10, 3, torch.inf)}, "Feature 3 of the validation side is not finite"),
        ({"train_labels": torch.arange(30) % 10 - 1}, "Label -1 is below 0"),
        ({"val_labels": torch.arange(10) + 2}, "Class 10 has no training image; 2 classes of the validation side have none"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_sides(**{**FITS, **change})
