"""What a protocol may be asked is checked when it is asked."""

from typing import Any

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import ClusterOptions, LogisticOptions


def test_penalties_come_largest_first() -> None:
    assert LogisticOptions().penalties == ()
    assert LogisticOptions(lambdas="0.01,1,.5,1e-3,1").penalties == (1.0, 0.5, 0.01, 0.001)


@pytest.mark.parametrize("lambdas", ["", "1,", "0.1,0", "-1", "a", "1 2", "nan"])
def test_penalties_that_are_none(lambdas: str) -> None:
    with pytest.raises(UsageError, match=f"lambdas is '{lambdas}'; it must be numbers above 0 with commas between"):
        LogisticOptions(lambdas=lambdas)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (LogisticOptions, {"held_out": 0.0}, "held_out is 0.0; it must be above 0 and below 1"),
        (LogisticOptions, {"held_out": 1.0}, "held_out is 1.0"),
        (LogisticOptions, {"select": "train"}, "select is 'train'; it must be one of held-out, validation"),
        (LogisticOptions, {"seed": -1}, "seed is -1; it must be at least 0"),
        (ClusterOptions, {"by": "kmeans"}, "by is 'kmeans'; it must be one of all, k-means, head"),
        (ClusterOptions, {"clusters": 0}, "clusters is 0; it must be at least 1"),
    ],
)
def test_values_out_of_range(options: type, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**change)
