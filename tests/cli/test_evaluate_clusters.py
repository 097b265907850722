"""`ibot eval cluster`: k-means and the head beside each other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ibot_hub.evaluation.clustering import cluster
from ibot_hub.evaluation.labelled import labelled
from ibot_hub.loading import load
from ibot_hub.options import EvaluationOptions
from tests.class_folders import class_folders

Ibot = Callable[..., tuple[int, str, str]]

SEEN = ("--size", "32", "--device", "cpu", "--workers", "1")


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("val"), 5)


def test_both_ways(ibot: Ibot, val: Path, checkpoint: str, tmp_path: Path) -> None:
    words = ("eval", "cluster", "--val", val, "--model", checkpoint, "-o", tmp_path, *SEEN)
    code, stdout, _ = ibot(*words)
    assert code == 0
    title, columns, first, second = stdout.splitlines()
    assert title == "Clusters of 15 images of 3 classes, per cent (Table 5)"
    assert columns.split() == ["by", "clusters", "used", "ACC", "ARI", "NMI", "FMI"]
    assert first.split() == ["k-means", "3", "3", *["100.00"] * 4]
    assert second.split()[:2] == ["head", "96"]
    facts = json.loads(ibot(*words, "--json", "--by", "k-means", "--clusters", "5", "--seed", "1")[1])
    assert facts == json.loads((tmp_path / "cluster.json").read_text())
    assert [way["clusters"] for way in facts["results"]["ways"]] == [5]
    assert (facts["settings"]["by"], facts["settings"]["seed"]) == ("k-means", 1)


def test_mistakes_are_told_before_a_model_is_fetched(ibot: Ibot, val: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "all").symlink_to(val)
    for words, said in (
        (("--val", val, "--clusters", "16"), f"16 clusters are asked for, but {val} holds 15 images"),
        (("--val", val / "red"), "red_0.png of"),
        (("--val", tmp_path / "one"), f"All images of {tmp_path / 'one'} are in one class folder, 'all'"),
    ):
        code, _, stderr = ibot("eval", "cluster", *words, "--model", "vit_nope", "-o", tmp_path)
        assert (code, said in stderr) == (2, True)


def test_features_are_clustered_without_a_model_and_given_to_a_head_with_it(ibot: Ibot, val: Path, checkpoint: str, tmp_path: Path) -> None:
    extract = ("extract-features", val, "-o", tmp_path / "features", "--model", checkpoint, "--dtype", "float32", *SEEN)
    assert ibot(*extract)[0] == 0
    words = ("eval", "cluster", "--val", tmp_path / "features", "-o", tmp_path / "out", "--json")
    code, stdout, _ = ibot(*words)
    assert (code, [way["way"] for way in json.loads(stdout)["results"]["ways"]]) == (0, ["k-means"])
    code, stdout, _ = ibot(*words, "--by", "head", "--model", checkpoint)
    model = load(checkpoint, head=True)
    expected = cluster(labelled(val, model, tmp_path, EvaluationOptions(size=32, device="cpu", workers=1)), model, by="head")
    assert code == 0
    assert json.loads(stdout)["results"]["ways"][0]["accuracy"] == expected.ways[0].accuracy
    code, _, stderr = ibot(*words, "--by", "head", "--model", "tiny")
    assert (code, "are not the [CLS] of tiny, which its head needs" in stderr) == (2, True)
