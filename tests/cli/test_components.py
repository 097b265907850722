"""`ibot components`: one sheet for several images, pages for many, and words for what is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ibot_cli.components
from ibot_hub.draw.components import draw_components
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.pca import components

Ibot = Callable[..., tuple[int, str, str]]


def test_the_sheet_is_the_librarys(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    paths = [photos / "coffee.jpg", photos / "graf1.jpg"]
    out = tmp_path / "sheet.png"
    code, stdout, stderr = ibot("components", *paths, "-o", out, "--size", "64", "--device", "cpu")
    assert (code, stdout) == (0, "")
    assert f"2 images -> {out}" in stderr
    assert "of what varies in the foreground" in stderr
    found = components(load("tiny"), paths, size=64)
    expected = draw_components([decode(path) for path in paths], found.maps, [path.name for path in paths])
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(expected))


def test_background_and_defaults(ibot: Ibot, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, stderr = ibot("components", photos / "coffee.jpg", "--size", "32", "--background")
    assert (code, "--model vit_b16" in stderr) == (0, True)
    assert "of what varies in all patches" in stderr
    assert (tmp_path / "components.png").exists()


def test_many_images_fill_pages_and_broken_ones_are_named(
    ibot: Ibot, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibot_cli.components, "PAGE", 2)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "c", "e"):
        shutil.copy(photos / "coffee.jpg", folder / f"{name}.jpg")
    (folder / "b.jpg").write_bytes(b"")
    Image.new("RGB", (2000, 10)).save(folder / "d.png")
    out = tmp_path / "sheet.png"
    code, _, stderr = ibot("components", folder, photos / "graf1.jpg", "-o", out, "--size", "32", "--model", "tiny")
    assert code == 0
    assert "left out: b.jpg: the file is empty" in stderr
    assert "left out: d.png: aspect ratio of 2000 x 10 is over 16" in stderr
    assert f"2 images -> {out}\n2 images -> {tmp_path / 'sheet-2.png'}\n" in stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["sheet-2.png", "sheet.png"]


def test_what_is_wrong_is_told(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    for words, said in (
        ([tmp_path / "missing.jpg", "--model", "nope"], "There is no"),  # before a model is looked for
        ([tmp_path / "broken.jpg"], "None of these images can be read."),
        ([photos / "coffee.jpg", "--size", "16", "-o", tmp_path / "sheet.nope"], "names no format of pictures; call it .png"),
        ([photos / "coffee.jpg", "--size", "16", "-o", tmp_path / "no" / "sheet.png"], "There is no folder"),
    ):
        code, _, stderr = ibot("components", *words)
        assert code in (1, 2)
        assert said in stderr
