"""Where the real material of the tests lies: answers of the official code, photographs, and a hub to push to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

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


@pytest.fixture
def hub_here(hf_hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The same hub for the client in this process, with caches of its own and nobody's token."""
    monkeypatch.setattr(constants, "ENDPOINT", hf_hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hf_hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return hf_hub
