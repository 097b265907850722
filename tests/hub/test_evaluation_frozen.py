"""The frozen set gives each protocol what it gives alone, from one pass over the images."""

import json
from pathlib import Path

import pytest
import torch

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.frozen import Evaluation, evaluate, folder_of
from ibot_hub.evaluation.knn import knn, ks_up_to
from ibot_hub.evaluation.labelled import labelled, pair
from ibot_hub.evaluation.linear import linear
from ibot_hub.features.extraction import extract
from ibot_hub.loading import load
from ibot_hub.model import Model
from tests.class_folders import class_folders


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("classes")
    return class_folders(root / "train", 8), class_folders(root / "val", 4, broken=1, seed=1)


@pytest.fixture(scope="module")
def evaluation(model: Model, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(model, *folders, tmp_path_factory.mktemp("out"), epochs=3)


def test_numbers_are_those_of_the_protocols_alone(
    model: Model, folders: tuple[Path, Path], evaluation: Evaluation, tmp_path: Path
) -> None:  # fmt: skip
    assert [record.protocol for record in evaluation.records] == ["knn", "cluster", "logistic", "linear"]
    near, groups, _, probe = (record.results for record in evaluation.records)
    one, other = pair(*(labelled(folder, model, tmp_path) for folder in folders))
    expected = knn(one.features, one.labels, other.features, other.labels, ks_up_to(24))
    assert (near["k"], near["top1"]) == (expected.ks, expected.top1)
    assert torch.equal(evaluation.val.features, other.features)
    one, other = pair(*(labelled(folder, model, tmp_path, layers=2) for folder in folders))  # it has two blocks
    assert probe["accuracies"] == linear(one.features, one.labels, other.features, other.labels, epochs=3).accuracies
    assert [way["way"] for way in groups["ways"]] == ["k-means", "head"]
    assert near["left_out"] == {"train": 0, "val": 1}
    sides = {"train": 0, "val": 1}
    assert [record.results["left_out"] for record in evaluation.records] == [sides, {"val": 1}, sides, sides]


def test_each_record_says_what_it_read(evaluation: Evaluation) -> None:
    read = {record.protocol: (record.settings["layers"], record.settings["pool"]) for record in evaluation.records}
    assert read == {"knn": (1, "cls"), "cluster": (1, "cls"), "logistic": (1, "cls"), "linear": (2, "cls")}


def test_features_are_made_once_and_records_are_written(model: Model, folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = evaluate(model, *folders, tmp_path, epochs=1)
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    assert len(shards) == 2
    second = evaluate(model, *folders, tmp_path, epochs=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")} == shards
    assert [one.results for one in first.records] == [two.results for two in second.records]
    written = json.loads((tmp_path / "linear.json").read_text())
    assert (written["protocol"], written["results"]["top1"]) == ("linear", second.records[-1].results["top1"])


def test_a_class_that_only_validation_has(model: Model, folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = class_folders(tmp_path / "val", 1)
    (other / "red").rename(other / "teal")
    with pytest.raises(UsageError, match="teal"):
        evaluate(model, folders[0], other, tmp_path / "out")


def test_two_networks_of_one_name_have_folders_of_their_own(golden: Path, model: Model) -> None:
    student = load(golden / "vit_micro_checkpoint.pth", network="student")
    assert folder_of(model) != folder_of(student)
    assert "/" not in folder_of(model)


def test_features_of_another_model_are_refused(golden: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """By their weights, whether there is a head to notice or not, and before anything is measured."""
    teacher, student = (load(golden / "vit_micro_checkpoint.pth", network=network, head=False) for network in ("teacher", "student"))
    extract(student, folders[0], tmp_path / "features", layers=2, pool="cls+mean", device="cpu", workers=1)
    with pytest.raises(UsageError, match=r"features holds features by .*vit_micro.*, whose weights are not those of "):
        evaluate(teacher, tmp_path / "features", folders[1], tmp_path / "out")
    assert not (tmp_path / "out").exists()
