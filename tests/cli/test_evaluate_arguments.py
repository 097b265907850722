"""What the commands of `ibot eval` ask for: a model only where it is needed, two sides that fit, an answer that is kept."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ibot_cli.evaluate.arguments import answer, both_read, both_sides, computing_device, opened
from ibot_hub.errors import SourceError, StoreError, UnknownModelError, UsageError
from ibot_hub.evaluation.record import record
from ibot_hub.evaluation.table import Table
from ibot_hub.features.extraction import extract
from ibot_hub.features.store import read_manifest
from ibot_hub.loading import load
from ibot_hub.options import EvaluationOptions
from tests.class_folders import class_folders

Ibot = Callable[..., tuple[int, str, str]]

SMALL = EvaluationOptions(size=32, device="cpu", workers=1)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("train"), 2)


@pytest.fixture(scope="module")
def features(train: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    model = load(golden / "vit_micro_checkpoint.pth", head=False)
    extract(model, train, folder, size=32, dtype="float32", device="cpu", workers=1)
    return folder


def test_a_model_is_opened_where_images_are(train: Path, features: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = opened(checkpoint, str(train), str(features))
    assert model is not None
    assert model.head is None
    assert "teacher network" in capsys.readouterr().err
    assert opened(None, str(features), str(features)) is None
    assert opened(checkpoint, str(features), str(features)) is None
    assert capsys.readouterr().err == ""
    assert opened(os.path.relpath(checkpoint), str(features)) is None  # the same file by another path
    with_head = opened(checkpoint, str(features), head=True)
    assert with_head is not None
    assert with_head.head is not None


def test_a_mistake_is_told_before_a_model_is_fetched(train: Path, features: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no"):
        opened("vit_nope", str(tmp_path / "missing"))
    with pytest.raises(UnknownModelError):
        opened("vit_nope", str(train))
    with pytest.raises(UsageError, match=r"holds features by .*vit_micro_checkpoint\.pth, and --model is tiny; leave it out"):
        opened("tiny", str(features), str(features))


def test_two_sides(train: Path, features: Path, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val = class_folders(tmp_path / "val", 2, broken=1)
    capsys.readouterr()
    model = load(checkpoint, head=False)
    one, other = both_sides(both_read(str(features), str(val)), model, tmp_path / "out", SMALL)
    assert (len(one.features), len(other.features)) == (6, 5)
    assert capsys.readouterr().err == f"1 image of {val} could not be read and is left out: red/red_0.png\n"
    assert [path.parent for path in (tmp_path / "out").rglob("manifest.json")] == list((tmp_path / "out" / "features").iterdir())
    assert other.manifest == read_manifest(next((tmp_path / "out" / "features").iterdir()))


def test_an_answer_is_printed_and_kept(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("A title", ("k", "top-1"), ((1, 12.5),))
    done = record(read_manifest(features), "knn", {"val": "here"}, {}, {"top1": 12.5}, table)
    answer(done, tmp_path, as_json=False)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["A title", "k  top-1", "1  12.50"]
    assert printed.err == f"written to {tmp_path / 'knn.json'}\n"
    answer(done, tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "knn.json").read_text())
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        answer(done, tmp_path / "file", as_json=False)
    assert capsys.readouterr().out.startswith("A title")  # hours of work are not lost for a full disk


def test_products_are_computed_on_a_gpu_or_the_cpu() -> None:
    assert computing_device(EvaluationOptions(device="cpu")) == torch.device("cpu")
    assert computing_device(EvaluationOptions()).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_help_does_not_import_torch() -> None:
    code = "import sys; sys.argv = ['ibot', 'eval', 'knn', '--help']\nfrom ibot_cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
