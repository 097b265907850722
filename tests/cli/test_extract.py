"""`ibot extract-features`: what it says and how it ends."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ibot_hub.features.table import open_features

Ibot = Callable[..., tuple[int, str, str]]


def test_extract_features(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    code, stdout, stderr = ibot(
        "extract-features", photos, "-o", tmp_path / "out", "--model", checkpoint, "--limit", "3", "--device", "cpu"
    )
    assert (code, stdout) == (0, "")
    assert "teacher network" in stderr
    assert "3 of 3 images" in stderr
    assert "extracting" not in stderr  # the progress line is for terminals
    assert open_features(tmp_path / "out").feature.shape == (3, 128)
    options = ("--model", checkpoint, "--network", "student", "--tokens", "both", "--json", "--mean", "0.5", "0.5", "0.5")
    code, stdout, _ = ibot("extract-features", photos / "coffee.jpg", "-o", tmp_path / "both", *options)
    facts = json.loads(stdout)
    assert (code, facts["images"], facts["failed"], facts["network"]) == (0, 1, 0, "student")
    assert facts["columns"] == {"feature": [128], "patches": [14, 14, 128]}
    assert open_features(tmp_path / "both").manifest.preprocessing["mean"] == [0.5, 0.5, 0.5]


def test_without_a_model_the_embedded_one_is_taken_and_named(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    words = ("extract-features", photos, "--limit", "2", "--device", "cpu", "--dtype", "float32", "--json")
    code, stdout, stderr = ibot(*words, "-o", tmp_path / "default")
    assert (code, json.loads(stdout)["model"], json.loads(stdout)["columns"]) == (0, "tiny", {"feature": [192]})
    first, second = stderr.splitlines()
    assert "--model vit_b16" in first
    assert second.startswith("tiny: ViT-192x4/8, teacher network")
    assert ibot(*words, "-o", tmp_path / "chosen", "--model", "tiny")[2].splitlines() == [second]
    assert (open_features(tmp_path / "default").feature[:] == open_features(tmp_path / "chosen").feature[:]).all()


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


def test_a_mistake_is_told_before_a_model_is_fetched(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    """The model's name is wrong too, but that would be seen only by looking for it."""
    for words, said in (((tmp_path / "missing",), "There is no"), ((photos, "--part", "3/2"), "it must be I/N")):
        _, _, stderr = ibot("extract-features", *words, "--model", "vit_nope", "-o", tmp_path / "out")
        assert said in stderr
        assert not (tmp_path / "out").exists()


def test_the_progress_line_is_shown_on_a_terminal(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    """A real process whose standard error is a terminal."""
    main_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 160))
    words = ["extract-features", str(photos), "-o", str(tmp_path / "out"), "--model", checkpoint, "--size", "448"]
    command = [sys.executable, "-c", f"import sys; sys.argv = ['ibot', *{words!r}]; from ibot_cli.main import main; main()"]
    process = subprocess.Popen(command, stderr=terminal, stdout=subprocess.DEVNULL)
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the terminal is closed
        while block := os.read(main_end, 4096):
            said += block
    os.close(main_end)
    assert process.wait() == 0
    assert re.search(rb"extracting in \w+: 100%.*16/16 \[\d\d:\d\d<00:00, .*img/s.*waiting for images \d+%", said)
