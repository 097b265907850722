"""`ibot export`: what it says, and what it refuses before a model is fetched."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from ibot_hub.loading import load

Ibot = Callable[..., tuple[int, str, str]]


def test_export(ibot: Ibot, checkpoint: str, tmp_path: Path) -> None:
    code, stdout, stderr = ibot("export", checkpoint, "-o", tmp_path / "out")
    assert (code, stdout) == (0, "")
    first, second, third = stderr.splitlines()
    assert "teacher network" in first
    assert second.startswith(f"backbone and head -> {tmp_path / 'out'}, timm; timm 1.")
    assert second.endswith("gives the same tokens to the bit")
    assert third.startswith("At other sizes than 224 px")
    assert load(tmp_path / "out").head is not None


def test_export_of_a_student_to_the_official_files(ibot: Ibot, checkpoint: str, tmp_path: Path) -> None:
    words = ("export", checkpoint, "-o", tmp_path / "out", "--format", "official", "--network", "student", "--no-head")
    code, _, stderr = ibot(*words)
    assert code == 0
    assert f"backbone and mask token -> {tmp_path / 'out'}, official; opened again, the same tensors to the bit" in stderr
    assert "without its projection head" in stderr
    code, stdout, _ = ibot(*words, "--json")
    facts = json.loads(stdout)
    assert (code, facts["out"], facts["network"], facts["head"]) == (0, str(tmp_path / "out"), "student", False)


def test_export_of_a_swin_says_how_much_it_differs(ibot: Ibot, golden: Path, tmp_path: Path) -> None:
    _, _, stderr = ibot("export", golden / "swin_micro_w7_checkpoint.pth", "-o", tmp_path / "out")
    assert re.search(r"tokens of timm [\d.]+ differ by \d\.\de-\d+ at most", stderr)
    assert "the official one is 1e-6" in stderr


def test_mistakes_are_told_before_a_model_is_fetched(ibot: Ibot, tmp_path: Path) -> None:
    """The model's name is wrong too, but that would be seen only by looking for it."""
    (tmp_path / "mine.txt").write_text("mine")
    code, _, stderr = ibot("export", "vit_nope", "-o", tmp_path)
    assert (code, "holds something else than an export" in stderr) == (1, True)
    code, _, stderr = ibot("export", "vit_nope", "-o", tmp_path / "out", "--format", "keras")
    assert (code, "keras" in stderr) == (2, True)
