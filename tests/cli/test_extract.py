"""`ibot extract-features`: what it says and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ibot_hub.features import open_features

Ibot = Callable[..., tuple[int, str, str]]


def test_extract_features(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    code, stdout, stderr = ibot(
        "extract-features", photos, "-o", tmp_path / "out", "--model", checkpoint, "--limit", "3", "--device", "cpu"
    )
    assert (code, stdout) == (0, "")
    assert "teacher network" in stderr
    assert "3 of 3 images" in stderr
    assert open_features(tmp_path / "out").feature.shape == (3, 128)
    options = ("--model", checkpoint, "--network", "student", "--tokens", "both", "--json", "--mean", "0.5", "0.5", "0.5")
    code, stdout, _ = ibot("extract-features", photos / "coffee.jpg", "-o", tmp_path / "both", *options)
    facts = json.loads(stdout)
    assert (code, facts["images"], facts["failed"], facts["network"]) == (0, 1, 0, "student")
    assert facts["columns"] == {"feature": [128], "patches": [14, 14, 128]}
    assert open_features(tmp_path / "both").manifest.preprocessing["mean"] == [0.5, 0.5, 0.5]


def test_exit_codes_of_broken_images(ibot: Ibot, checkpoint: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "broken.jpg").write_bytes(b"")
    base = ("extract-features", source, "--model", checkpoint)
    code, _, stderr = ibot(*base, "-o", tmp_path / "all")
    assert (code, "1 images could not be read" in stderr) == (1, True)
    Image.new("RGB", (50, 40)).save(source / "good.png")
    assert ibot(*base, "-o", tmp_path / "some")[0] == 0
    assert ibot(*base, "-o", tmp_path / "some", "--strict")[0] == 1
