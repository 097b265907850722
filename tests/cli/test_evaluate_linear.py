"""`ibot eval linear` and `parts`: reports, records, heads and curves."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ibot_hub.evaluation.linear_head import open_head
from tests.class_folders import write_classes

Ibot = Callable[..., tuple[int, str, str]]
FAST = ("--size", "64", "--epochs", "4", "--step-images", "6", "--device", "cpu")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return write_classes(tmp_path / "data" / "train", 5, 1), write_classes(tmp_path / "data" / "val", 2, 2)


def test_linear_of_class_folders_and_of_their_features(ibot: Ibot, sides: tuple[Path, Path], checkpoint: str, tmp_path: Path) -> None:
    train, val = sides
    out = tmp_path / "eval"
    words = ("eval", "linear", "--train", train, "--val", val, "--model", checkpoint, "-o", out, *FAST)
    code, stdout, stderr = ibot(*words)
    assert code == 0
    assert "top-1 100.00, top-5 100.00 per cent of 6 validation images" in stdout
    assert "trained on features computed once, without augmentation" in stdout
    assert f"the classifier is in {out / 'linear.safetensors'}" in stderr
    head = open_head(out / "linear.safetensors")
    assert (head.classes, head.manifest.layers, head.manifest.pool) == (("ape", "bee", "cat"), 2, "cls")
    written = json.loads((out / "linear.json").read_text())
    assert written["results"]["head_sha256"] == hashlib.sha256((out / "linear.safetensors").read_bytes()).hexdigest()
    assert (written["settings"]["layers"], written["settings"]["pool"], written["settings"]["augment"]) == (2, "cls", False)
    assert (len(written["results"]["accuracies"]), written["results"]["top1"]) == (45, 100.0)
    features = [next((out / "features").glob(f"*-{side}-*")) for side in ("train", "val")]
    of_features = json.loads(
        ibot("eval", "linear", "--train", features[0], "--val", features[1], "-o", tmp_path / "again", "--json", *FAST)[1]
    )
    assert of_features["results"]["accuracies"] == written["results"]["accuracies"]
    assert of_features["weights"] == written["weights"]


def test_the_classifier_of_another_model_is_kept(ibot: Ibot, sides: tuple[Path, Path], checkpoint: str, tmp_path: Path) -> None:
    train, val = sides
    out = tmp_path / "eval"
    for model in (checkpoint, "tiny"):
        assert ibot("eval", "linear", "--train", train, "--val", val, "--model", model, "-o", out, *FAST)[0] == 0
    [kept] = out.glob("linear-*.json")
    assert open_head(kept.with_suffix(".safetensors")).manifest.model == json.loads(kept.read_text())["model"] == checkpoint
    assert open_head(out / "linear.safetensors").manifest.model == "tiny"


def test_linear_on_fresh_crops(ibot: Ibot, sides: tuple[Path, Path], checkpoint: str, tmp_path: Path) -> None:
    train, val = sides
    words = ("eval", "linear", "--train", train, "--val", val, "--model", checkpoint, "-o", tmp_path / "eval", *FAST)
    code, stdout, _ = ibot(*words, "--augment", "--layers", "1", "--pool", "cls+mean", "--select", "validation")
    assert code == 0
    assert "trained on fresh random crops in each epoch" in stdout
    assert "per cent of 6 validation images" in stdout.splitlines()[1]
    written = json.loads((tmp_path / "eval" / "linear.json").read_text())
    assert (written["settings"]["layers"], written["settings"]["pool"], written["settings"]["select"]) == (1, "cls+mean", "validation")


def test_parts(ibot: Ibot, sides: tuple[Path, Path], checkpoint: str, tmp_path: Path) -> None:
    train, val = sides
    words = ("eval", "parts", "--train", train, "--val", val, "--model", checkpoint, "-o", tmp_path / "eval", *FAST)
    code, stdout, _ = ibot(*words)
    assert code == 0
    assert [line.split()[0] for line in stdout.splitlines()[1:]] == ["k", "1", "5", "9", "16"]
    written = json.loads((tmp_path / "eval" / "parts.json").read_text())
    assert (written["results"]["counts"], written["results"]["patches"]) == ([1, 5, 9, 16], 16)
    assert written["settings"]["preprocessing"]["size"] == 64
    with Image.open(tmp_path / "eval" / "parts.png") as picture:
        assert picture.size == (960, 660)


def test_mistakes_are_told_in_a_sentence(ibot: Ibot, sides: tuple[Path, Path], checkpoint: str, golden: Path, tmp_path: Path) -> None:
    train, val = sides
    (val / "dog").mkdir()
    (val / "cat" / "0.png").rename(val / "dog" / "0.png")
    features, single = tmp_path / "features", write_classes(tmp_path / "single", 1)
    ibot("extract-features", val, "-o", features, "--model", checkpoint, "--size", "64", "--device", "cpu")
    swin = golden / "swin_micro_w7_checkpoint.pth"
    for words, said in (
        (("linear", "--train", train, "--val", val, "--model", checkpoint), "Class 'dog' has images in "),
        (("linear", "--train", features, "--val", features, "--augment"), "holds features, and the images themselves are needed"),
        (("linear", "--train", single, "--val", single, "--model", "vit_nope"), "Each class has one training image"),
        (("parts", "--train", single, "--val", single, "--model", "vit_nope"), "Each class has one training image"),
        (("parts", "--train", train, "--val", features, "--model", "vit_nope"), "Class 'dog' has images in "),
        (("parts", "--train", val, "--val", features, "--model", "vit_nope"), "holds features, and the images themselves are needed"),
        (("linear", "--train", train, "--val", val, "--held-out", "1"), "held_out is 1.0"),
        (("parts", "--train", features, "--val", features), "holds features, and the images themselves are needed"),
        (("parts", "--train", train, "--val", train, "--model", swin), "A Swin has no [CLS] token"),
        (("parts", "--train", train, "--val", val, "--model", "vit_nope"), "Class 'dog' has images in "),
    ):
        code, _, stderr = ibot("eval", *words, "-o", tmp_path / "out", *FAST)
        assert code in (1, 2)
        assert said in stderr
