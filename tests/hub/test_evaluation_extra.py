"""What is missing of the extra `eval` is named with the way to it."""

import sys

import pytest

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.extra import needed


def test_a_library_that_is_there() -> None:
    assert needed("scipy.optimize").__name__ == "scipy.optimize"


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UsageError, match=r"This protocol needs scipy: pip install 'ibot-hub\[eval\]'\."):
        needed("scipy.optimize")
