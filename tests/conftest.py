"""Where the real material of the tests lies: answers of the official code, and photographs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def golden() -> Path:
    """Checkpoints in the official containers, and what the official code answers with them."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def photos() -> Path:
    return ROOT / "examples" / "photos"
