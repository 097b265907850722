"""`ibot eval report`: a page of one model, and of two."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.class_folders import class_folders

Ibot = Callable[..., tuple[int, str, str]]


def test_two_models_on_one_page(ibot: Ibot, checkpoint: str, golden: Path, tmp_path: Path) -> None:
    train, val = class_folders(tmp_path / "train", 6), class_folders(tmp_path / "val", 2, broken=1, seed=1)
    swin = str(golden / "swin_micro_w7_checkpoint.pth")
    words = ("eval", "report", checkpoint, "--against", swin, "--train", train, "--val", val, "--out", tmp_path / "out", "--epochs", "2")
    code, stdout, stderr = ibot(*words)
    assert code == 0
    assert stderr.count(f"1 image of {val} could not be read and is left out: red/red_0.png\n") == 2
    page = (tmp_path / "out" / "report.md").read_text()
    assert "# Frozen evaluation of golden/vit_micro_checkpoint.pth beside golden/swin_micro_w7_checkpoint.pth" in page
    assert all(line.split()[-1] in page for line in stdout.splitlines()[2:])
    assert len(list((tmp_path / "out").glob("report-attention-*.png"))) == 3
    answer = json.loads(ibot(*words, "--json")[1])
    assert [[record["protocol"] for record in records] for records in answer] == [["knn", "cluster", "logistic", "linear"]] * 2


def test_two_models_need_the_images(ibot: Ibot, checkpoint: str, tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", 2)
    ibot("extract-features", train, "-o", tmp_path / "features", "--model", checkpoint, "--size", "32", "--device", "cpu")
    words = ("eval", "report", "vit_nope", "--against", "vit_nope", "--train", train, "--val", train)
    code, _, stderr = ibot(*words, "--out", tmp_path / "out")
    assert (code, "--against vit_nope is the model itself" in stderr) == (2, True)
    words = ("eval", "report", "vit_nope", "--train", train, "--val", train)
    code, _, stderr = ibot(*words, "--out", tmp_path / "out")
    assert (code, "There are 6 training images, fewer than the paper's smallest k" in stderr) == (2, True)
    words = ("eval", "report", "vit_nope", "--against", checkpoint, "--train", tmp_path / "features", "--val", train)
    code, _, stderr = ibot(*words, "--out", tmp_path / "out")
    assert (code, "--against lets two models see the images" in stderr) == (2, True)


def test_a_folder_that_is_not_there_is_told_first(ibot: Ibot, checkpoint: str, tmp_path: Path) -> None:
    code, _, stderr = ibot("eval", "report", checkpoint, "--train", tmp_path / "no", "--val", tmp_path)
    assert (code, "There is no" in stderr) == (1, True)
