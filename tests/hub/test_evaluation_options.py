"""Options of protocols know their bounds, and need no torch."""

import subprocess
import sys
from typing import Any

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import CopyOptions, LocalizationOptions, PropagationOptions, RevisitedOptions

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


def test_they_come_without_torch() -> None:
    code = "import sys, ibot_hub.evaluation.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
