"""Clusters that are the classes are found to be, whatever they are called; a head's are those of its raw logits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ibot_hub.errors import UsageError, WeightsError
from ibot_hub.evaluation import clustering as module
from ibot_hub.evaluation.clustering import cluster, head_clusters, kmeans, measure_clusters
from ibot_hub.evaluation.labelled import Labelled, labelled
from ibot_hub.head import Head
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions
from tests.class_folders import class_folders


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth", head=True)


@pytest.fixture(scope="module")
def side(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    folder = class_folders(tmp_path_factory.mktemp("val"), 6)
    return labelled(folder, model, tmp_path_factory.mktemp("cache"), EvaluationOptions(size=32, device="cpu", workers=1))


def around(count: int, classes: int, noise: float) -> tuple[Tensor, Tensor]:
    """Features of very different lengths around one direction a class."""
    rng = np.random.default_rng(1)
    labels = np.arange(count) % classes
    features = np.random.default_rng(0).normal(size=(classes, 24))[labels] + noise * rng.normal(size=(count, 24))
    return torch.tensor(features * rng.uniform(0.01, 100, (count, 1)), dtype=torch.float32), torch.tensor(labels)


def with_features(side: Labelled, features: Tensor, labels: Tensor) -> Labelled:
    return replace(side, features=features, labels=labels, classes=tuple("abcdefgh"[: int(labels.max()) + 1]))


@pytest.mark.parametrize("large", [10**6, 100])
def test_separate_classes_are_found(side: Labelled, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both of scikit-learn's algorithms."""
    monkeypatch.setattr(module, "LARGE", large)
    report = cluster(with_features(side, *around(240, 6, 0.05)), by="k-means")
    assert (report.images, report.classes, len(report.ways)) == (240, 6, 1)
    [way] = report.ways
    assert (way.way, way.clusters, way.used) == ("k-means", 6, 6)
    assert (way.accuracy, way.agreement.nmi, way.agreement.ari, way.agreement.fmi) == pytest.approx((1, 1, 1, 1))
    [row] = report.table.rows
    assert row == pytest.approx(("k-means", 6, 6, 100, 100, 100, 100))


def test_random_classes_are_not(side: Labelled) -> None:
    features, labels = around(600, 6, 0.05)
    labels = labels[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    [way] = cluster(with_features(side, features, labels), by="k-means").ways
    assert way.accuracy < 0.3
    assert abs(way.agreement.ari) < 0.02


def test_more_clusters_than_classes_split_them(side: Labelled) -> None:
    [way] = cluster(with_features(side, *around(240, 6, 0.05)), by="k-means", clusters=12).ways
    assert way.clusters == way.used == 12
    assert way.accuracy < 0.8  # of two halves of a class one counts
    assert way.agreement.ari < 1


def test_the_seed_decides() -> None:
    features, _ = around(200, 6, 3.0)
    assert torch.equal(kmeans(features, 6, 1), kmeans(features, 6, 1))
    assert not torch.equal(kmeans(features, 6, 1), kmeans(features, 6, 2))


def test_a_head_says_the_pattern_of_its_largest_logit(side: Labelled, model: Model) -> None:
    assert model.head is not None
    with torch.no_grad():
        expected = model.head.cls_logits(side.features).argmax(dim=1)
    [way] = cluster(side, model, by="head").ways
    assert way == measure_clusters("head", expected, model.head.last_layer.weight_g.shape[0], side.labels)
    assert [way.way for way in cluster(side, model).ways] == ["k-means", "head"]
    assert [way.way for way in cluster(side).ways] == ["k-means"]
    headless = Model(model.backbone, None, None, model.transform, model.card)
    assert [way.way for way in cluster(side, headless).ways] == ["k-means"]
    with pytest.raises(WeightsError, match="was loaded without its projection head"):
        cluster(side, headless, by="head")


def test_a_head_with_a_layer_for_patches_says_the_pattern_of_cls(side: Labelled, model: Model) -> None:
    torch.manual_seed(0)
    apart = Model(model.backbone, Head(128, 20, 30), None, model.transform, model.card)
    found, known = head_clusters(apart, side)
    assert known == 20
    with torch.no_grad():
        assert torch.equal(found, apart.head.cls_logits(side.features).argmax(dim=1))


def test_a_head_takes_the_cls_of_its_own_backbone(side: Labelled, model: Model) -> None:
    for change in ({"weights": "ab" * 32}, {"layers": 4}, {"pool": "cls+mean"}):
        with pytest.raises(UsageError, match=r"are not the \[CLS\] of .*vit_micro_checkpoint\.pth, which its head needs; give the images"):
            cluster(replace(side, manifest=replace(side.manifest, **change)), model, by="head")
    with pytest.raises(UsageError, match="The head is asked for, but no model that has it is given"):
        cluster(side, by="head")


def test_what_cannot_be_clustered_is_refused(side: Labelled) -> None:
    one = with_features(side, torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(UsageError, match="are in one class folder, 'a'; give the folder that holds the class folders"):
        cluster(one)
    with pytest.raises(UsageError, match=r"19 clusters are asked for, but .* holds 18 images; there must be one for each"):
        cluster(side, clusters=19)
    broken = side.features.clone()
    broken[7, 3] = torch.nan
    with pytest.raises(UsageError, match="Feature 7 is not finite"):
        cluster(replace(side, features=broken))
    with pytest.raises(UsageError, match=r"Clusters \[3\] and labels \[4\] must be one each an image"):
        measure_clusters("k-means", torch.arange(3), 3, torch.arange(4))
