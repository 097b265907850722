"""What the README shows is run; what it lists is all there is."""

import ast
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ibot_cli.main import app
from ibot_hub import catalog
from ibot_hub.head import Head
from ibot_hub.vit import ViT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", README, re.DOTALL)
PACKAGES = ("ibot_hub", "cli/ibot_cli", "training/ibot_training", "demo/ibot_demo")


@pytest.fixture
def official_tree(tmp_path: Path) -> Path:
    """Untrained weights of the right shape where the official ones would be."""
    torch.manual_seed(0)
    backbone = ViT(img_size=224, patch_size=16, embed_dim=384, depth=12, num_heads=6).state_dict()
    head = Head(384, 8192).state_dict()
    folder = tmp_path / "mirror" / "vits_16"
    folder.mkdir(parents=True)
    torch.save({"state_dict": backbone}, folder / "checkpoint_teacher.pth")
    teacher = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    teacher |= {f"head.{name}": tensor for name, tensor in head.items()}
    torch.save({"teacher": teacher}, folder / "checkpoint.pth")
    return folder.parent


def test_examples_run(official_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(official_tree))
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "README.md", "exec"), names)
        for line in text.splitlines() if language == "console" else ():
            if line.startswith("ibot "):
                assert CliRunner().invoke(app, shlex.split(line)[1:]).exit_code == 0, line
    printed = capsys.readouterr().out
    assert "torch.Size([1, 384]) torch.Size([1, 14, 14, 384])" in printed
    assert "astronaut.jpg (16, 384)" in printed
    assert names["tokens"].patches.shape == (1, 42, 28, 384)  # type: ignore[attr-defined]
    assert names["tensor"].shape == (3, 224, 224)  # type: ignore[attr-defined]
    assert names["patterns"].ids.shape == (1, 14, 14)  # type: ignore[attr-defined]
    assert len(names["frame"]) == len(names["dataset"]) == 16  # type: ignore[arg-type]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    shown = {line.split()[1] for _, text in BLOCKS for line in text.splitlines() if line.startswith("make ")}
    assert shown == {"run", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in [*shown, "test-all"])


def test_the_table_of_models_is_the_catalogue() -> None:
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells]
        for cells in (line.split("|") for line in README.partition("## Models")[2].partition("\n## ")[0].splitlines())
        if len(cells) == 9
    }
    rows.pop("name")
    rows.pop("---")
    assert list(rows) == catalog.list_models()
    for name, (_, _, network, data, epochs, knn, linear, _, _) in rows.items():
        entry = catalog.info(name)
        assert network == (f"{entry.network} of a {entry.arch}" if entry.network else entry.arch)
        assert (data, epochs) == (entry.data, str(entry.epochs or ""))
        assert (knn, linear) == (str(entry.metrics.get("k-NN", "")), str(entry.metrics.get("linear", "")))


def test_every_file_of_the_house_is_named_with_its_own_sentence() -> None:
    rows = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", README, re.MULTILINE))
    files = {path.relative_to(ROOT).as_posix(): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert set(rows) == set(files)
    for name, path in files.items():
        sentence = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        assert rows[name] == sentence.rstrip("."), name


def test_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not os.path.exists(ROOT / link)] == []  # noqa: PTH110
