"""`ibot eval occlusion` and `shuffle`: a head that is given, or trained there."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.features.extraction import extract
from ibot_hub.loading import load
from tests.class_folders import write_classes

Ibot = Callable[..., tuple[int, str, str]]
SMALL = ("--size", "64", "--device", "cpu")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("robustness")
    return write_classes(folder / "train", 5, 1), write_classes(folder / "val", 2, 2)


def test_a_head_is_trained_once_and_used_again(ibot: Ibot, sides: tuple[Path, Path], checkpoint: str, tmp_path: Path) -> None:
    train, val = sides
    out = tmp_path / "eval"
    code, stdout, stderr = ibot("eval", "occlusion", "--train", train, "--val", val, "--model", checkpoint, "-o", out, *SMALL,
                                "--ratios", "0.5")  # fmt: skip
    assert code == 0
    assert f"the classifier is in {out / 'trained-head.safetensors'}; --head takes it" in stderr
    assert [line.split()[0] for line in stdout.splitlines()[1:]] == ["lost", "0", "0.5"]
    assert stdout.splitlines()[2].split() == ["0", "100.00", "0.00", "100.00", "0.00", "100.00", "0.00"]
    written = json.loads((out / "occlusion.json").read_text())
    assert (written["results"]["ratios"], written["results"]["dropped"]["random"]) == ([0, 0.5], [0, 50])
    assert (written["data"], written["settings"]["layers"]) == ({"val": str(val), "train": str(train)}, 2)
    code, stdout, stderr = ibot("eval", "shuffle", "--head", out / "trained-head.safetensors", "--val", val, "--model", checkpoint,
                                "-o", out, *SMALL)  # fmt: skip
    assert code == 0
    assert "left out: 14 x 14 pieces, which do not divide the images" in stderr
    assert stdout.splitlines()[2].split() == ["1", "x", "1", "1", "100.00"]
    assert json.loads((out / "shuffle.json").read_text())["data"]["head"] == str(out / "trained-head.safetensors")
    for name in ("occlusion", "shuffle"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.size == (960, 660)


def test_matplotlib_is_looked_for_before_anything_is_measured(ibot: Ibot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in (("occlusion",), ("shuffle",), ("parts", "--train", tmp_path)):
        code, _, stderr = ibot("eval", *command, "--val", tmp_path, "--model", "vit_nope")
        assert (code, "matplotlib: pip install 'ibot-hub[eval]'" in stderr) == (2, True)


def test_mistakes_are_told_in_a_sentence(ibot: Ibot, sides: tuple[Path, Path], golden: Path, tmp_path: Path) -> None:
    """What needs no model is told before one is fetched: the name is wrong too."""
    train, val = sides
    swin, features, head = golden / "swin_micro_w7_checkpoint.pth", tmp_path / "features", tmp_path / "head.safetensors"
    few = write_classes(tmp_path / "few", 1)
    shutil.rmtree(few / "bee")
    manifest = extract(load("tiny", head=False), val, features, device="cpu", workers=1).manifest
    LinearHead(torch.zeros(2, 192), torch.zeros(2), ("ape", "cat"), 0.1, manifest).save(head)
    for words, said in (
        (("shuffle", "--val", val, "--model", "vit_nope"), "Say --head FILE, which `ibot eval linear` writes, or --train DIR"),
        (("shuffle", "--val", val, "--train", train, "--head", val, "--model", "vit_nope"), "and not both"),
        (("occlusion", "--val", val, "--head", tmp_path / "none", "--model", "vit_nope"), "`ibot eval linear` writes a head"),
        (("occlusion", "--val", val, "--train", train, "--ratios", "2", "--model", "vit_nope"), "ratios is '2'"),
        (("occlusion", "--val", few, "--train", val / "ape", "--model", "vit_nope"), "is in no class folder"),
        (("shuffle", "--val", val, "--train", few, "--model", "vit_nope"), "Class 'bee' has images in "),
        (("shuffle", "--val", features, "--train", train, "--model", "vit_nope"), "holds features, and the images themselves are needed"),
        (("shuffle", "--val", val, "--head", head, "--model", "vit_nope"), "Class 'bee' of "),
        (("occlusion", "--val", val, "--train", train, "--model", swin), "A Swin has no [CLS], whose attention says"),
    ):
        code, _, stderr = ibot("eval", *words, "-o", tmp_path / "out", *SMALL)
        assert code in (1, 2)
        assert said in stderr
