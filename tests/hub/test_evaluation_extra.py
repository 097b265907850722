"""A library of the extra `eval` is there, or its absence is said in one sentence."""

import sys

import pytest
import scipy.ndimage

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.extra import needed


def test_what_is_installed_is_given() -> None:
    assert needed("scipy.ndimage") is scipy.ndimage


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(UsageError, match=r"This protocol needs scipy: pip install 'ibot-hub\[eval\]'"):
        needed("scipy.ndimage")
