"""A record holds what a number needs to be trusted, and is on disk whole or not at all."""

import hashlib
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
    """With the picture and the classifier of that name, and without what only begins alike."""
    for name, other in (("model", replace(done, weights="ef" * 32)), ("data", replace(done, data={"val": "elsewhere"}))):
        out = tmp_path / name
        write_record(replace(done, results={}), out)
        first = write_record(done, out).read_text()  # measured again: replaced
        for ending in ("png", "safetensors", "old.json"):
            (out / f"knn.{ending}").write_text(ending)
        assert capsys.readouterr().err == ""
        write_record(other, out)
        digest = hashlib.sha256(first.encode()).hexdigest()[:8]
        assert capsys.readouterr().err == (
            f"{out / 'knn.json'} held results of another model or of other data; they are knn-tiny-{digest}.json now\n"
        )
        kept = {path.name.removeprefix(f"knn-tiny-{digest}"): path.read_text() for path in out.glob("knn-*")}
        assert kept == {".json": first, ".png": "png", ".safetensors": "safetensors"}
        assert sorted(path.name for path in out.glob("knn.*")) == ["knn.json", "knn.old.json"]


def test_what_is_no_record_is_kept_too(done: Record, tmp_path: Path) -> None:
    (tmp_path / "knn.json").write_text("no record of ours")
    write_record(done, tmp_path)
    assert [path.read_text() for path in tmp_path.glob("knn-other-*.json")] == ["no record of ours"]


def test_what_cannot_be_moved_is_told(done: Record, tmp_path: Path) -> None:
    text = write_record(done, tmp_path).read_bytes()
    (tmp_path / "knn.png").write_text("")
    (tmp_path / f"knn-tiny-{hashlib.sha256(text).hexdigest()[:8]}.png" / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"knn\.png of other results cannot be moved \(Is a directory\); choose another --out"):
        write_record(replace(done, weights="ef" * 32), tmp_path)
    assert (tmp_path / "knn.json").read_bytes() == text  # which is moved last
