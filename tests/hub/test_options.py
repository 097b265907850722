"""Options know their bounds, and need no torch."""

import subprocess
import sys

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.options import ExtractOptions


def test_numbers_have_a_smallest_value() -> None:
    for name, spec in ExtractOptions.__dataclass_fields__.items():
        if spec.metadata["minimum"] is not None:
            with pytest.raises(UsageError, match=f"{name} is 0; it must be at least 1"):
                ExtractOptions(**{name: 0})


def test_words_are_among_the_known_ones() -> None:
    assert ExtractOptions().resize is None
    for name in ("resize", "pool"):
        with pytest.raises(UsageError, match=f"{name} is 'whole'; it must be one of c"):
            ExtractOptions(**{name: "whole"})


def test_every_option_has_a_sentence_of_help() -> None:
    assert all(spec.metadata["help"].endswith(".") for spec in ExtractOptions.__dataclass_fields__.values())


def test_they_come_without_torch() -> None:
    code = "import sys, ibot_hub.options, ibot_hub.catalog, ibot_hub.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
