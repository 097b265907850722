"""Low-shot numbers are those of both protocols on the part alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.knn import knn
from ibot_hub.evaluation.logistic import logistic
from ibot_hub.evaluation.lowshot import lowshot
from ibot_hub.evaluation.options import LogisticOptions


def around(count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 6
    features = np.random.default_rng(0).normal(size=(6, 24))[labels] + noise * rng.normal(size=(count, 24))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def test_each_part_alone() -> None:
    train, labels = around(300, 2.0, 1)
    val, truth = around(120, 2.0, 2)
    parts = [("few", torch.arange(0, 18)), ("many", torch.arange(40, 280))]
    options = LogisticOptions(lambdas="0.01", seed=3)
    report = lowshot(train, labels, val, truth, parts, (10, 20, 100), options)
    assert report.splits == ("few", "many")
    assert [near.ks for near in report.knn] == [(10,), (10, 20, 100)]
    for (_, rows), near, fitted in zip(parts, report.knn, report.logistic, strict=True):
        assert torch.equal(near.correct, knn(train[rows], labels[rows], val, truth, near.ks).correct)
        assert torch.equal(fitted.correct, logistic(train[rows], labels[rows], val, truth, options).correct)
    assert report.logistic[0].top1 < report.logistic[1].top1
    assert [row[:3] for row in report.table.rows] == [
        ("few", 18, "k-NN, k = 10"),
        ("few", 18, "logistic, lambda = 0.01"),
        *(("many", 240, f"k-NN, k = {k}") for k in (10, 20, 100)),
        ("many", 240, "logistic, lambda = 0.01"),
    ]
    assert report.numbers["many"]["logistic"]["top1"] == report.logistic[1].top1


def test_a_part_smaller_than_every_k_has_all_its_images_as_neighbours() -> None:
    train, labels = around(12, 0.1, 1)
    report = lowshot(train, labels, *around(30, 0.1, 2), [("few", torch.arange(12))], (20, 200))
    assert report.knn[0].ks == (12,)
    assert report.knn[0].top1 == (100.0,)


def test_a_part_that_has_nothing_to_hold_out_is_named_first() -> None:
    train, labels = around(60, 1.0, 1)
    parts = [("many", torch.arange(60)), ("single", torch.arange(6))]
    with pytest.raises(UsageError, match=r"single holds one image of each class, so none can be held out .* larger share \(--percent\)"):
        lowshot(train, labels, *around(30, 1.0, 2), parts, (10,))
    report = lowshot(train, labels, *around(30, 1.0, 2), parts, (6,), LogisticOptions(select="validation"))
    assert report.logistic[1].images == 6


def test_a_class_that_is_not_in_a_part() -> None:
    train, labels = around(60, 1.0, 1)
    with pytest.raises(UsageError, match="Class 5 has no image in the index"):
        lowshot(train, labels, *around(30, 1.0, 2), [("few", labels.lt(5).nonzero()[:, 0])], (10,))
