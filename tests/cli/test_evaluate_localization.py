"""`ibot eval localize`: CorLoc of each map, and a picture of the best."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Ibot = Callable[..., tuple[int, str, str]]


def test_corloc_of_a_folder(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("clock", "coffee"):
        with Image.open(photos / f"{name}.jpg") as image:
            image.resize((96, 64)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"")
    (tmp_path / "boxes.csv").write_text("path,x,y,width,height\nclock.png,0,0,96,64\nbroken.png,0,0,9,9\ncoffee.png,20,10,50,40\n")
    out = tmp_path / "out"
    words = ("eval", "localize", tmp_path / "images", "--boxes", tmp_path / "boxes.csv", "--model", "tiny")
    code, stdout, stderr = ibot(*words, "--size", "64", "--device", "cpu", "-o", out)
    assert code == 0
    assert "left out: broken.png: the file is empty" in stderr
    record = json.loads((out / "localize.json").read_text())
    assert list(record["results"]["corloc"]) == ["mean", "head 0", "head 1", "head 2"]
    assert (record["results"]["images"], record["results"]["failed"]) == (2, [["broken.png", "the file is empty"]])
    assert record["settings"]["of"] == "attention of [CLS]"
    assert stdout.splitlines()[0] == "CorLoc by attention of [CLS], per cent (Fig. 6 as a number)"
    with Image.open(out / "localize.png") as picture:
        assert picture.width > 2 * 288


def test_boxes_that_are_none_are_told_before_a_model_is_fetched(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("path,x,y\nclock.jpg,0,0\n")
    code, _, stderr = ibot("eval", "localize", photos, "--boxes", tmp_path / "boxes.csv", "--model", "vit_b16")
    assert (code, "has no column width" in stderr) == (2, True)
    (tmp_path / "boxes.csv").write_text("path,x,y,width,height\ngone.jpg,0,0,9,9\n")
    code, _, stderr = ibot("eval", "localize", photos, "--boxes", tmp_path / "boxes.csv", "--model", "vit_b16")
    assert (code, "gone.jpg, which has boxes; 1 of 1 images are missing" in stderr) == (2, True)
