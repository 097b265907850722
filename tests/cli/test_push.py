"""`ibot push`: what it says and sends; tests/hub/test_hub_publish.py has the rest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from ibot_hub import weights
from tests.hub_server import OWNER, HubServer

# huggingface_hub 2.4 sends large files in a way that its own httpx2 finds outdated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")

Ibot = Callable[..., tuple[int, str, str]]


def test_a_run_is_pushed_with_its_recipe(
    ibot: Ibot, hf_hub: HubServer, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hf_hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    run = tmp_path / "run"
    run.mkdir()
    weights.save(weights.read(golden / "vit_micro_checkpoint.pth", "student"), run / "student.safetensors")
    (run / "recipe.toml").write_text('name = "x"\n')
    code, stdout, stderr = ibot("push", run, "org/micro", "--dry-run", "--network", "student")
    assert (code, stdout) == (0, f"nothing was sent; without --dry-run it goes to {hf_hub.url}/org/micro\n")
    assert "student network" in stderr
    assert "training/recipe.toml: " in stderr
    assert hf_hub.repositories == {}
    code, stdout, stderr = ibot("push", run, "org/micro", "--private")
    assert (code, stdout) == (0, f"{hf_hub.url}/org/micro\n")
    assert hf_hub.repositories["org/micro"].private
    assert hf_hub.repositories["org/micro"].commits[-1].files["training/recipe.toml"] == b'name = "x"\n'
    shutil.rmtree(run)
    code, stdout, stderr = ibot("push", run, "micro")
    assert (code, stdout, "is no name of a repository" in stderr) == (2, "", True)


def test_a_training_state_goes_only_where_there_is_one(ibot: Ibot, hub_here: HubServer, golden: Path, tmp_path: Path) -> None:
    """Before a model is fetched or anything is sent."""
    run = tmp_path / "run"
    run.mkdir()
    for model in ("vit_b16", golden / "vit_micro_checkpoint.pth", run):
        code, stdout, stderr = ibot("push", model, "org/micro", "--with-training-state")
        assert (code, stdout) == (2, "")
        assert stderr == (
            f"ibot: {model} is no run's folder, and only a run has a training state; name the folder that `ibot train` wrote (--out).\n"
        )
    (run / "recipe.toml").write_text("")
    code, stdout, stderr = ibot("push", run, "org/micro", "--with-training-state")
    assert (code, stdout) == (1, "")
    assert f"ibot: The run in {run} has no checkpoint yet" in stderr
    assert hub_here.requests == []
