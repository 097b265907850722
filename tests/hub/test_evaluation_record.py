"""A record holds what a number needs to be trusted, and is on disk whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ibot_hub.errors import StoreError
from ibot_hub.evaluation.record import Record, as_json, record, write_record
from ibot_hub.evaluation.table import Table
from ibot_hub.features.store import Manifest


@pytest.fixture
def done() -> Record:
    manifest = Manifest(
        model="tiny", arch="ViT-192x4/8", network="teacher", weights="ab" * 32, source="/photos", images=3, listing="cd" * 32,
        preprocessing={"size": 64, "resize": "crop"}, tokens="cls", layers=4, pool="cls", dtype="float32", batch_size=8,
        format="parquet", shard_size=1000, device="cpu", columns={"feature": [192]}, versions={},
    )  # fmt: skip
    table = Table("A title", ("k", "top-1"), ((1, 12.5),))
    data = {"train": "/photos", "val": "/others"}
    return record(manifest, "knn", data, {"temperature": 0.07, "size": "mine"}, {"ks": (1,), "top1": (12.5, float("nan"))}, table)


def test_it_says_what_was_measured_of_what_and_how(done: Record) -> None:
    facts = json.loads(as_json(done))
    assert (facts["protocol"], facts["model"], facts["arch"], facts["network"]) == ("knn", "tiny", "ViT-192x4/8", "teacher")
    assert facts["weights"] == "ab" * 32
    assert facts["data"] == {"train": "/photos", "val": "/others"}
    assert facts["settings"] == {
        "preprocessing": {"size": 64, "resize": "crop"}, "dtype": "float32", "layers": 4, "pool": "cls",
        "temperature": 0.07, "size": "mine",
    }  # fmt: skip
    assert facts["results"] == {"ks": [1], "top1": [12.5, None]}  # JSON has no NaN
    assert facts["table"] == {"title": "A title", "columns": ["k", "top-1"], "rows": [[1, 12.5]]}
    assert {"ibot-hub", "torch", "python"} <= facts["versions"].keys()


def test_it_is_written_into_a_folder_that_is_made(done: Record, tmp_path: Path) -> None:
    path = write_record(done, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "knn.json"
    assert path.read_text() == as_json(done) + "\n"
    write_record(done, tmp_path / "new" / "folder")
    assert [file.name for file in path.parent.iterdir()] == ["knn.json"]


def test_where_it_cannot_be_written_it_is_said(done: Record, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/knn\.json cannot be written \(.+\); free space, or choose another --out"):
        write_record(done, tmp_path / "file")
    (tmp_path / "knn.json").mkdir()
    with pytest.raises(StoreError, match=r"knn\.json cannot be read \(Is a directory\); choose another --out"):
        write_record(done, tmp_path)


def test_results_of_another_model_or_other_data_are_kept(done: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_record(done, tmp_path).read_text()
    (tmp_path / "knn.png").write_text("its picture")
    write_record(replace(done, results={}), tmp_path)  # measured again: replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["knn.json", "knn.png"]
    write_record(done, tmp_path)
    assert capsys.readouterr().err == ""
    for other in (replace(done, weights="ef" * 32), replace(done, data={"val": "elsewhere"})):
        write_record(done, tmp_path)
        write_record(other, tmp_path)
        assert "held results of another model or of other data; they are knn-" in capsys.readouterr().err
    kept = [path.read_text() for path in tmp_path.glob("knn-*.json")]
    assert first in kept
    assert [path.read_text() for path in tmp_path.glob("knn-*.png")] == ["its picture"]
    (tmp_path / "knn.json").write_text("no record of ours")
    write_record(done, tmp_path)
    assert "no record of ours" in [path.read_text() for path in tmp_path.glob("knn-other-*.json")]
