"""`ibot download`: it prints where the model is, and a mistake in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.hub_server import HubServer

Ibot = Callable[..., tuple[int, str, str]]


def test_where_the_model_is_goes_to_standard_output(ibot: Ibot) -> None:
    code, stdout, _ = ibot("download", "tiny")
    assert code == 0
    assert Path(stdout.strip()).name == "tiny.safetensors"
    assert Path(stdout.strip()).is_file()
    code, stdout, stderr = ibot("download", "tinny")
    assert (code, stdout, "did you mean tiny" in stderr) == (1, "", True)
    code, stdout, stderr = ibot("download", "hf-hub:not/a/name")
    assert (code, stdout, "is no name of a repository" in stderr) == (1, "", True)


def test_a_revision_of_a_repository(hf_hub: HubServer, tmp_path: Path) -> None:
    repository = hf_hub.repository("org/micro", {"config.json": b"{}", "model.safetensors": b"first"})
    repository.add({"config.json": b"{}", "model.safetensors": b"second"})
    commit = repository.commits[0].oid
    own = {"HF_ENDPOINT": hf_hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "IBOT_HUB_CACHE": str(tmp_path / "ibot")}
    command = [sys.executable, "-m", "ibot_cli.main", "download", f"hf-hub:org/micro@{commit}"]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=240, check=True)
    folder = Path(done.stdout.strip())
    assert folder.name == commit
    assert (folder / "model.safetensors").read_bytes() == b"first"
