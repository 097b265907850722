"""The classifier is the optimum of the objective that the docstring states, and its penalty is chosen without the queries."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import UsageError
from ibot_hub.evaluation import logistic as module
from ibot_hub.evaluation.logistic import logistic, penalties


def clusters(count: int, classes: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Features around one direction a class, of very different lengths, which must not be seen."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(classes, 24))
    labels = np.arange(count) % classes
    features = directions[labels] + noise * rng.normal(size=(count, 24))
    return torch.tensor(features * rng.uniform(0.01, 100, (count, 1)), dtype=torch.float32), torch.tensor(labels)


def gradient(weight: Tensor, rows: Tensor, labels: Tensor, penalty: float) -> Tensor:
    """Of mean(-log p(class)) + penalty / 2 |W|^2, written out in float64."""
    x, w = F.normalize(rows.double(), dim=1), weight.double()
    p = (x @ w.T).exp()
    p = p / p.sum(dim=1, keepdim=True)
    return (p - F.one_hot(labels, len(w))).T @ x / len(x) + penalty * w


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("penalty", [1.0, 0.01, 1e-4])
def test_it_is_the_optimum_of_the_objective(classes: int, penalty: float) -> None:
    train, labels = clusters(200, classes, 1.5, 1)
    val, truth = clusters(80, classes, 1.5, 2)
    report = logistic(train, labels, val, truth, lambdas=str(penalty), select="validation")
    start = gradient(torch.zeros(classes, 24), train, labels, penalty).abs().max()
    assert gradient(report.weight, train, labels, penalty).abs().max() < 5e-3 * start
    assert report.weight.sum(dim=0).abs().max() < 1e-3 * report.weight.abs().max()  # of a softmax only differences count
    logits = F.normalize(val, dim=1) @ report.weight.T
    assert torch.equal(report.correct, logits.argmax(dim=1) == truth)
    assert report.top1 == pytest.approx(100 * report.correct.double().mean())
    top5 = (logits.topk(min(5, classes)).indices == truth[:, None]).any(dim=1)
    assert report.top5 == pytest.approx(100 * top5.double().mean())


def test_it_equals_scikit_learn_with_the_stated_c() -> None:
    train, labels = clusters(300, 7, 2.0, 1)
    val, truth = clusters(100, 7, 2.0, 2)
    report = logistic(train, labels, val, truth, lambdas="0.01", select="validation")
    peer = LogisticRegression(C=1 / (0.01 * 300), fit_intercept=False, tol=1e-8, max_iter=5000)
    peer.fit(F.normalize(train.double(), dim=1).numpy(), labels.numpy())
    np.testing.assert_allclose(report.weight.numpy(), peer.coef_, atol=2e-3 * np.abs(peer.coef_).max())


def test_known_answers() -> None:
    train, labels = clusters(200, 10, 0.1, 1)
    val, truth = clusters(100, 10, 0.1, 2)
    assert (logistic(train, labels, val, truth).top1, logistic(train, labels, val, truth).top5) == (100.0, 100.0)
    rng = torch.Generator().manual_seed(0)
    random = logistic(train, torch.randint(10, (200,), generator=rng), val, torch.randint(10, (100,), generator=rng))
    assert random.top1 < 25
    permuted = torch.randperm(10, generator=rng)
    assert logistic(train, permuted[labels], val, permuted[truth]).top1 == 100


def test_without_asking_both_readings_of_the_official_penalties_are_tried() -> None:
    assert penalties(200) == (1.0, 0.1, 0.01, 0.005, 0.0005, 0.00005)
    train, labels = clusters(200, 10, 2.0, 1)
    report = logistic(train, labels, *clusters(100, 10, 2.0, 2))
    assert report.lambdas == penalties(200)
    assert report.penalty == report.lambdas[report.chosen_on.index(max(report.chosen_on))]
    assert (report.images, report.queries, report.classes) == (200, 100, 10)


def test_the_queries_do_not_choose_unless_they_are_asked_to() -> None:
    train, labels = clusters(300, 10, 2.5, 1)
    val, truth = clusters(200, 10, 2.5, 2)
    rng = torch.Generator().manual_seed(0)
    report = logistic(train, labels, val, truth)
    other = logistic(train, labels, val, truth[torch.randperm(200, generator=rng)])
    assert (other.penalty, other.chosen_on) == (report.penalty, report.chosen_on)
    assert torch.equal(other.weight, report.weight)
    official = logistic(train, labels, val, truth, select="validation")
    assert official.top1 == max(official.chosen_on)
    alone = [logistic(train, labels, val, truth, select="validation", lambdas=str(penalty)).top1 for penalty in penalties(300)]
    assert official.chosen_on == pytest.approx(alone, abs=1.01)  # the next begins where the last ended: two queries of 200 at most


def test_the_seed_decides_what_is_held_out() -> None:
    train, labels = clusters(300, 10, 2.5, 1)
    val, truth = clusters(200, 10, 2.5, 2)
    first, again, other = (logistic(train, labels, val, truth, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert first.chosen_on == again.chosen_on != other.chosen_on


def test_the_table_has_a_row_for_each_penalty() -> None:
    report = logistic(*clusters(60, 3, 1.0, 1), *clusters(30, 3, 1.0, 2), lambdas="0.1,0.001")
    assert report.table.columns == ("lambda", "on held-out", "top-1", "top-5")
    assert [row[:2] for row in report.table.rows] == [("0.1", report.chosen_on[0]), ("0.001", report.chosen_on[1])]
    measured = [row[2:] for row in report.table.rows if row[2] is not None]
    assert measured == [(report.top1, report.top5)]
    assert report.numbers["lambda"] == report.penalty


def test_labels_have_gaps_where_a_class_has_no_image() -> None:
    train, labels = clusters(90, 3, 0.1, 1)
    val, truth = clusters(30, 3, 0.1, 2)
    report = logistic(train, labels * 4, val, truth * 4)
    assert (report.top1, report.classes) == (100, 3)


def test_where_it_stops_early_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "ITERATIONS", 2)
    logistic(*clusters(100, 5, 2.0, 1), *clusters(50, 5, 2.0, 2), lambdas="1e-6", select="validation")
    assert capsys.readouterr().err == "lambda 1e-06: stopped after 2 iterations, not yet at the optimum\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": torch.ones(10, 5)}, "Training features have length 4, those of validation 5"),
        ({"train": torch.full((30, 4), torch.nan)}, "Feature 0 of the training side is not finite"),
        ({"val_labels": torch.arange(10) + 1}, "Class 10 has no training image"),
        ({"train": torch.ones(10, 4), "train_labels": torch.arange(10)}, "Each class has one training image"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"train": torch.ones(30, 4), "train_labels": torch.arange(30) % 10, "val": torch.ones(10, 4), "val_labels": torch.arange(10)}
    with pytest.raises(UsageError, match=message):
        logistic(**{**given, **change})


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(UsageError, match=r"needs sklearn: pip install 'ibot-hub\[eval\]'"):
        logistic(*clusters(60, 3, 1.0, 1), *clusters(30, 3, 1.0, 2))
