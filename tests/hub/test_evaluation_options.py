"""What a protocol may be asked is checked when it is asked."""

import subprocess
import sys
from typing import Any

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import (
    ClusterOptions,
    CopyOptions,
    LinearOptions,
    LocalizationOptions,
    LogisticOptions,
    OcclusionOptions,
    PropagationOptions,
    RevisitedOptions,
    ShuffleOptions,
    SweepOptions,
)
from ibot_hub.options import EvaluationOptions


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


def test_they_are_the_options_of_every_evaluation_and_more() -> None:
    shared = set(EvaluationOptions.__dataclass_fields__)
    for options in (LinearOptions, OcclusionOptions, ShuffleOptions, SweepOptions):
        assert shared < set(options.__dataclass_fields__)
        assert all(spec.metadata["help"].endswith(".") for spec in options.__dataclass_fields__.values())


def test_words_become_drops_and_shares() -> None:
    assert OcclusionOptions().drops == ("random", "salient", "non-salient")
    assert OcclusionOptions().lost == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    chosen = OcclusionOptions(drop="salient,salient", ratios="0.5,0.25,.5")
    assert (chosen.drops, chosen.lost) == (("salient",), (0.0, 0.25, 0.5))


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (SweepOptions, {"epochs": 0}, "epochs is 0; it must be at least 1"),
        (SweepOptions, {"held_out": 0.0}, "held_out is 0.0; it must be above 0 and below 1"),
        (SweepOptions, {"select": "test"}, "select is 'test'; it must be one of held-out, validation"),
        (LinearOptions, {"layers": 0}, "layers is 0; it must be at least 1"),
        (OcclusionOptions, {"drop": "random,all"}, "drop is 'random,all'; it must be some of random, salient, non-salient"),
        (OcclusionOptions, {"ratios": "0.5,2"}, "ratios is '0.5,2'; it must be shares from 0 to 1"),
        (OcclusionOptions, {"ratios": "half"}, "ratios is 'half'"),
        (OcclusionOptions, {"ratios": "nan"}, "ratios is 'nan'"),
        (ShuffleOptions, {"seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused(options: type[Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**change)


def test_they_come_without_torch() -> None:
    code = "import sys, ibot_hub.evaluation.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


ALL = (CopyOptions, LocalizationOptions, PropagationOptions, RevisitedOptions)


@pytest.mark.parametrize("options", ALL)
def test_every_option_has_a_sentence_of_help(options: Any) -> None:
    assert all(spec.metadata["help"].endswith(".") for spec in options.__dataclass_fields__.values())


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        (RevisitedOptions, {"size": 0}, "size is 0; it must be at least 1"),
        (CopyOptions, {"depth": 0}, "depth is 0; it must be at least 1"),
        (PropagationOptions, {"size": 63}, "size is 63; it must be at least 64"),
        (PropagationOptions, {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        (LocalizationOptions, {"mass": 1.5}, "mass is 1.5; it must be above 0 and at most 1"),
        (LocalizationOptions, {"overlap": 0.0}, "overlap is 0.0; it must be above 0 and at most 1"),
        (LocalizationOptions, {"resize": "stretch"}, "resize is 'stretch'; it must be one of crop, squash, keep"),
    ],
)
def test_values_out_of_bounds_are_refused(options: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options(**changes)
