"""Where the real material of the tests lies: answers of the official code, photographs, and a hub to push to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def golden() -> Path:
    """Checkpoints in the official containers, and what the official code answers with them."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def photos() -> Path:
    return ROOT / "examples" / "photos"


@pytest.fixture
def hf_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hugging Face Hub on loopback; a client takes `HF_ENDPOINT` when it is imported, so it runs in a process of its own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer() as server:
        yield server
