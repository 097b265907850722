"""A folder is exported whole, replaces only an earlier export, and says what it holds."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot_hub.errors import StoreError, UsageError, WeightsError
from ibot_hub.formats import exporting
from ibot_hub.formats.exporting import Exported, check_export, export, read_exported
from ibot_hub.loading import load
from ibot_hub.model import Model

FILES = {
    "timm": {"config.json", "model.safetensors", "ibot.safetensors", "answers.safetensors", "ibot.json"},
    "official": {"checkpoint.pth", "checkpoint_teacher.pth", "answers.safetensors", "ibot.json"},
}


@pytest.fixture
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.mark.parametrize("format", FILES)
def test_what_is_written_opens_again(model: Model, tmp_path: Path, format: str) -> None:
    out = export(model, tmp_path / "deep" / "out", format)  # type: ignore[arg-type]
    assert out == tmp_path / "deep" / "out"
    assert {file.name for file in out.iterdir()} == FILES[format]
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1  # whoever may read one may read all
    again, ours = load(out).state_dict(), model.state_dict()
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)


def test_it_says_what_it_holds(model: Model, golden: Path, tmp_path: Path) -> None:
    said = read_exported(export(model, tmp_path / "vit"))
    assert said == Exported(
        "timm", "ViT-128x2/16", "teacher", "float32", True, False, said.images, 0.0, said.checked_with, said.notes
    )  # fmt: skip
    assert said.checked_with.startswith("timm 1.")
    assert said.images["resize_short_side"] == 256
    assert (said.images["centre_crop"], said.images["mean"]) == (224, [0.485, 0.456, 0.406])
    assert "At other sizes than 224 px" in " ".join(said.notes)
    swin = read_exported(export(load(golden / "swin_micro_w14_checkpoint_teacher.pth", dtype="bfloat16"), tmp_path / "swin"))
    assert (swin.arch, swin.dtype, swin.head) == ("Swin-16x8/14", "bfloat16", False)
    assert swin.deviation is not None
    assert 0 < swin.deviation < 1e-3
    assert "without its projection head" in swin.notes[0]
    assert "eps of 1e-5 that timm fixes" in swin.notes[1]
    model.transform = replace(model.transform, resize="squash")
    official = read_exported(export(model, tmp_path / "official", "official"))
    assert (official.images["squash"], "centre_crop" in official.images) == (224, False)
    assert official.deviation is None
    assert "not go on training" in official.notes[0]


def test_a_network_that_is_not_stated_is_told(golden: Path, tmp_path: Path) -> None:
    torch.save(torch.load(golden / "vit_micro_checkpoint.pth", weights_only=False)["teacher"], tmp_path / "flat.pth")
    said = read_exported(export(load(tmp_path / "flat.pth"), tmp_path / "out", "official"))
    assert said.network is None
    assert "it is put under 'teacher'" in said.notes[0]


def test_an_earlier_export_is_replaced_and_nothing_else(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for format in ("official", "timm"):
        export(model, out, format)  # type: ignore[arg-type]
        assert {file.name for file in out.iterdir()} == FILES[format]
    (out / "notes.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    foreign = tmp_path / "foreign"  # a model, but not one that was exported
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    for target in (out, file, foreign):
        with pytest.raises(StoreError, match=f"{target} holds something else than an export; choose another --out"):
            export(model, target)
    assert (out / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file", "foreign"}


def test_what_fails_leaves_what_was_there(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export(model, tmp_path / "out", "official")
    monkeypatch.setattr(exporting, "timm_deviation", lambda model, folder: (folder / "missing").stat())
    with pytest.raises(StoreError, match=f"{out} cannot be written: No such file or directory; make room"):
        export(model, out)
    monkeypatch.undo()
    monkeypatch.setattr(exporting, "write_timm", lambda model, folder: damaged(model, folder))
    with pytest.raises(WeightsError, match="does not hold what was written to it; nothing was exported"):
        export(model, out)
    assert {file.name for file in out.iterdir()} == FILES["official"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def damaged(model: Model, folder: Path) -> None:
    """As `write_timm`, but one number is another."""
    from ibot_hub.formats.timm import write_timm

    kept = model.backbone.norm.bias.data.clone()
    model.backbone.norm.bias.data[3] += 1e-6
    write_timm(model, folder)
    model.backbone.norm.bias.data.copy_(kept)


def test_mistakes(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="There is no format 'keras'; say timm, transformers, onnx, official"):
        check_export(tmp_path, "keras")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'ibot-hub\[transformers\]'"):
        export(model, tmp_path / "out", "transformers")
    assert not list(tmp_path.iterdir())


def test_the_file_names_no_path_of_this_machine(model: Model, tmp_path: Path) -> None:
    out = export(model, tmp_path / "out")
    assert str(Path(model.card.name).parent) not in (out / "ibot.json").read_text()
    assert json.loads((out / "ibot.json").read_text())["format"] == "timm"
