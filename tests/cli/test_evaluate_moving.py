"""`ibot eval video`: J and F of clips, their masks, and a picture."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.evaluation.tracking import write_labels

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """One clip of a square that moves."""
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / "davis" / kind / "480p" / "square").mkdir(parents=True)
    for step in range(4):
        frame, labels = np.full((96, 128, 3), 110, dtype=np.uint8), np.zeros((96, 128), dtype=np.uint8)
        frame[30:70, 20 + 5 * step : 60 + 5 * step] = (250, 90, 20)
        labels[30:70, 20 + 5 * step : 60 + 5 * step] = 1
        Image.fromarray(frame).save(tmp_path / "davis/JPEGImages/480p/square" / f"{step:05d}.jpg")
        write_labels(labels, tmp_path / "davis/Annotations/480p/square" / f"{step:05d}.png")
    return tmp_path / "davis"


def test_a_clip_is_followed(ibot: Ibot, davis: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("eval", "video", davis, "--model", "tiny", "--size", "96", "--device", "cpu", "-o", out)
    code, stdout, stderr = ibot(*words)
    assert code == 0
    assert stdout.splitlines()[0] == "Objects followed through clips, per cent, mean over objects (Table 16)"
    record = json.loads((out / "video.json").read_text())
    assert stdout.splitlines()[-1].split()[2] == f"{record['results']['j_and_f']:.2f}"
    assert record["results"]["j"] > 80
    assert (record["settings"]["radius"], record["settings"]["device"], record["settings"]["patch"]) == (12, "cpu", 8)
    assert record["settings"]["std"] == [0.228, 0.224, 0.225]
    assert record["results"]["objects"][0]["frames"] == 2
    assert sorted(path.name for path in (out / "masks" / "square").iterdir()) == ["00001.png", "00002.png", "00003.png"]
    with Image.open(out / "video.png") as picture:
        assert picture.width > 3 * 288
    assert f"written to {out / 'video.json'}" in stderr


def test_folders_in_another_layout_are_told_before_a_model_is_fetched(ibot: Ibot, davis: Path) -> None:
    code, _, stderr = ibot("eval", "video", davis / "JPEGImages", "--model", "vit_b16")
    assert (code, "clips are looked for in the layout of DAVIS" in stderr) == (1, True)
    code, _, stderr = ibot("eval", "video", davis, "--split", "train", "--model", "vit_b16")
    assert (code, "that --split train names" in stderr) == (1, True)
