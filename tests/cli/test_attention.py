"""`ibot attention`: what it says and how it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Ibot = Callable[..., tuple[int, str, str]]


def test_attention(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("coffee.jpg", "two_dogs.jpg"):
        with Image.open(photos / name) as image:
            image.resize((90, 60)).save(source / name)
    (source / "broken.jpg").write_bytes(b"")
    out = tmp_path / "out"
    code, stdout, stderr = ibot("attention", source, "-o", out, "--model", checkpoint, "--size", "64", "--device", "cpu")
    assert (code, stdout) == (0, "")
    first, broken, summary = stderr.splitlines()
    assert "teacher network" in first
    assert broken == "broken.jpg: the file is empty"
    assert summary == f"2 of 3 images -> {out}; 1 could not be read"
    assert sorted(path.name for path in out.iterdir()) == ["coffee.jpg.png", "two_dogs.jpg.png"]
    code, _, stderr = ibot("attention", source / "broken.jpg", "-o", out, "--model", checkpoint, "--network", "student")
    assert (code, "student network" in stderr, "0 of 1 images" in stderr) == (1, True, True)


def test_without_a_model_the_embedded_one_is_taken(ibot: Ibot, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, stderr = ibot("attention", photos / "coffee.jpg", "--size", "64", "--heads", "mean", "--device", "cpu")
    assert code == 0
    assert stderr.splitlines()[0].startswith("no --model: this is tiny")
    assert [path.name for path in (tmp_path / "attention").iterdir()] == ["coffee.jpg.png"]


def test_a_swin_is_said_to_have_no_cls(ibot: Ibot, photos: Path, golden: Path, tmp_path: Path) -> None:
    words = ("--model", golden / "swin_micro_w7_checkpoint.pth", "--size", "128", "-o", tmp_path / "out.png")
    code, _, stderr = ibot("attention", photos / "coffee.jpg", *words)
    assert code == 0
    assert "A Swin has no [CLS] token" in stderr
    assert "cosine of each patch with the image's vector" in stderr
    with Image.open(tmp_path / "out.png") as strip:
        assert strip.width < 3.5 * strip.height * 1.5  # image, overlay, one map


def test_a_mistake_is_told_before_a_model_is_fetched(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    image = photos / "coffee.jpg"
    for words, said in (
        ((tmp_path / "missing",), "There is no"),
        ((image, "--mass", "1.5"), "mass is 1.5; it must be above 0 and at most 1."),
        ((image, "--mass", "nan"), "mass is nan"),
        ((image, "--heads", "first"), "heads is 'first'; it must be all, mean, or numbers from 0 on with commas between, as in 0,3,5."),
        ((image, "--size", "9000"), "size is 9000"),
        ((photos, "-o", tmp_path / "out.png"), "--out names a folder"),
    ):
        code, _, stderr = ibot("attention", *words, "--model", "vit_nope")
        assert (code, said in stderr) == (1 if "no" in said[:12] else 2, True), stderr


def test_what_only_the_model_knows_is_told_in_one_line(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    words = ("attention", photos / "coffee.jpg", "-o", tmp_path / "out", "--model", checkpoint, "--size", "32")
    for more, said in ((("--layer", "99"), "Layer 99 does not exist"), (("--heads", "0,99"), "heads is 0,99; these maps have")):
        code, _, stderr = ibot(*words, *more)
        assert (code, len(stderr.splitlines()), said in stderr) == (2, 2, True)
    assert not (tmp_path / "out").exists()
