"""torch.hub finds every model of the catalogue by its name."""

import importlib.util
from pathlib import Path

import pytest
import torch

import ibot_hub

ROOT = str(Path(__file__).parents[1])


def test_entry_points_are_the_catalogue_and_load() -> None:
    """By the rule of `torch.hub.list`, which itself reads only what is on GitHub."""
    spec = importlib.util.spec_from_file_location("hubconf", f"{ROOT}/hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    entries = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    assert entries == {*ibot_hub.list_models(), "load"}
    assert hubconf.vit_b16.__doc__.startswith("ViT-B/16, ImageNet-1K: `ibot_hub.load('vit_b16'")
    assert all(importlib.util.find_spec(package) for package in hubconf.dependencies)


def test_a_name_and_a_file(golden: Path) -> None:
    model = torch.hub.load(ROOT, "tiny", source="local", head=False)
    assert (model.card, model.head) == (ibot_hub.load("tiny").card, None)
    student = torch.hub.load(ROOT, "load", golden / "vit_micro_checkpoint.pth", "student", source="local")
    assert student.card.network == "student"
    with pytest.raises(RuntimeError, match="nobody"):
        torch.hub.load(ROOT, "nobody", source="local")
