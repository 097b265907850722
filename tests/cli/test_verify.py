"""`ibot verify`: a line for each check, and one sentence where one fails."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ibot_hub import loading
from ibot_hub.catalog import info
from ibot_hub.formats.exporting import export
from ibot_hub.loading import load

Ibot = Callable[..., tuple[int, str, str]]


def test_each_check_has_its_line(ibot: Ibot, checkpoint: str) -> None:
    code, stdout, stderr = ibot("verify", "tiny")
    assert code == 0
    assert [line.split()[:2] for line in stdout.splitlines()] == [["ok", "sha256"], ["ok", "tensors"], ["ok", "answers"]]
    assert stderr.startswith("tiny: ViT-192x4/8, teacher network, with head, ")
    code, stdout, _ = ibot("verify", checkpoint, "--no-head", "--network", "student")
    assert code == 0
    assert [line.split("  ")[0] for line in stdout.splitlines()] == ["not checked", "ok", "not checked"]
    code, stdout, _ = ibot("verify", "tiny", "--json")
    said = json.loads(stdout)
    assert (code, said["passed"], said["card"]["network"], said["head"]) == (0, True, "teacher", True)
    assert [check["what"] for check in said["checks"]] == ["sha256", "tensors", "answers"]


def test_a_failure_is_told_in_one_sentence(ibot: Ibot, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export(load(checkpoint), tmp_path / "out", "timm")
    tensors = load_file(out / "model.safetensors")
    save_file(tensors | {"norm.bias": tensors["norm.bias"] + 1}, out / "model.safetensors", {"format": "pt"})
    code, stdout, stderr = ibot("verify", out)
    assert code == 1
    assert stdout.splitlines()[-1].startswith("FAILED       answers   answers.safetensors: ")
    assert stderr.splitlines()[-1].startswith(f"ibot: {out / 'answers.safetensors'}: the model now answers")
    code, stdout, stderr = ibot("verify", out, "--json")
    assert (code, json.loads(stdout)["passed"]) == (1, False)
    (out / "model.safetensors").write_bytes(b"")
    (out / "answers.safetensors").write_bytes(b"")
    code, _, stderr = ibot("verify", out)
    assert (code, "no model, " in stderr.splitlines()[0]) == (1, True)
    assert "model.safetensors is not a checkpoint, or is damaged" in stderr.splitlines()[-1]
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    assert ibot("verify", "vit_s16") == (
        1, "", f"ibot: vit_s16 is not in the cache {tmp_path / 'cache'}; `ibot download vit_s16` fetches it.\n",
    )  # fmt: skip


def test_several_failures_are_counted(ibot: Ibot, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(info("tiny"), sha256={"tiny.safetensors": "0" * 64}, patterns=7)
    monkeypatch.setattr(loading, "info", lambda _: wrong)
    code, _, stderr = ibot("verify", "tiny")
    assert code == 1
    assert stderr.endswith("pip install --force-reinstall ibot-hub (1 more failed).\n")
