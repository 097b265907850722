"""Only a whole checkpoint whose networks are those that the run shows is published."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.origin import Origin
from ibot_training import checkpoint
from ibot_training.publishing import state_to_publish


def networks(value: float) -> dict[str, Tensor]:
    names = ("student.backbone.norm.bias", "student.mask_token", "teacher.backbone.norm.bias")
    return {name: torch.full((3,), value) for name in names}


def save(run: Path, step: int, *, exported: bool = True) -> Path:
    tensors = networks(step)
    if exported:
        bare = [{name.removeprefix(f"{one}."): tensor for name, tensor in tensors.items() if one in name} for one in ("teacher", "student")]
        checkpoint.export(run, *bare, Origin())
    return checkpoint.save(run, step, tensors, {})


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path} is no run's folder, and only a run has a training state; name the folder that"):
        state_to_publish(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(StoreError, match=f"^The run in {tmp_path} has no checkpoint yet; wait for its first, or stop it"):
        state_to_publish(tmp_path)
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    assert state_to_publish(tmp_path) == second
    assert capsys.readouterr().err == ""
    (second / "state.json").write_text("{}")
    save(tmp_path, 1)
    assert state_to_publish(tmp_path).name == f"{first.name}.1"
    assert "step-00000002 is no whole checkpoint" in capsys.readouterr().err


def test_networks_of_another_step_are_told(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    save(tmp_path, 1)
    save(tmp_path, 2, exported=False)
    with pytest.raises(StoreError, match=r"are not those of its checkpoint step-00000002: the run is saving, or was killed while it did"):
        state_to_publish(tmp_path)
