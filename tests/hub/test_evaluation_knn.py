"""k-NN answers what a plain implementation and scikit-learn answer, in bounded memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation import knn as module
from ibot_hub.evaluation.knn import chosen_ks, knn, ks_up_to

Array = npt.NDArray[Any]


def clusters(count: int, classes: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Features around one direction a class, of very different lengths, which the cosine must not see."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(classes, 32))
    labels = np.arange(count) % classes
    features = directions[labels] + noise * rng.normal(size=(count, 32))
    return torch.tensor(features * rng.uniform(0.01, 100, (count, 1)), dtype=torch.float32), torch.tensor(labels)


def plain_votes(index: Tensor, labels: Tensor, queries: Tensor, k: int, classes: int) -> Array:
    """[M, C] in float64, one query after the other."""
    first, second = (x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True) for x in (index, queries))
    votes = np.zeros((len(second), classes))
    for row, query in enumerate(second):
        similarity = first @ query
        for image in np.argsort(-similarity)[:k]:
            votes[row, labels[image]] += np.exp(similarity[image] / 0.07)
    return votes


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_equals_a_plain_implementation(noise: float) -> None:
    index, labels = clusters(700, 12, noise, 1)
    queries, truth = clusters(250, 12, noise, 2)
    report = knn(index, labels, queries, truth)
    assert report.ks == (10, 20, 100, 200)
    assert (report.images, report.queries, report.classes) == (700, 250, 12)
    for row, k in enumerate(report.ks):
        votes = plain_votes(index, labels, queries, k, 12)
        order = np.argsort(-votes, axis=1, kind="stable")
        correct = order[:, 0] == truth.numpy()
        among = ((order[:, :5] == truth.numpy()[:, None]) & (np.take_along_axis(votes, order[:, :5], 1) > 0)).any(1)
        assert np.array_equal(report.correct[row].numpy(), correct)
        assert report.top1[row] == pytest.approx(100 * correct.mean())
        assert report.top5[row] == pytest.approx(100 * among.mean())
    assert 15 < report.top1[0] < report.top5[0] <= 100


@pytest.mark.parametrize("k", [1, 20, 200])
def test_equals_scikit_learn(k: int) -> None:
    index, labels = clusters(700, 12, 2.0, 1)
    queries, truth = clusters(250, 12, 2.0, 2)
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    peer.fit(index.double().numpy(), labels.numpy())
    expected = peer.predict(queries.double().numpy()) == truth.numpy()
    assert np.array_equal(knn(index, labels, queries, truth, (k,)).correct[0].numpy(), expected)


def test_known_answers() -> None:
    index, labels = clusters(600, 10, 0.01, 1)
    queries, truth = clusters(300, 10, 0.01, 2)
    report = knn(index, labels, queries, truth, (1, 10, 50))
    assert report.top1 == (100.0, 100.0, 100.0)
    rng = torch.Generator().manual_seed(0)
    random = knn(index, torch.randint(10, (600,), generator=rng), queries, torch.randint(10, (300,), generator=rng), (1, 10))
    assert all(4 < top1 < 16 for top1 in random.top1)
    assert random.top5[0] == random.top1[0]  # one neighbour votes for one class


def test_near_neighbours_outvote_many() -> None:
    angles = torch.tensor([0.05, 0.6, 0.6, 0.6])
    index = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels, query = torch.tensor([7, 3, 3, 3]), torch.tensor([[1.0, 0.0]])
    assert knn(index, labels, query, torch.tensor([7]), (1, 4)).correct.tolist() == [[True], [True]]  # exp(17%/0.07) is 12 votes
    assert knn(index, labels, query, torch.tensor([7]), (4,), temperature=10).correct.tolist() == [[False]]
    assert knn(index, labels, query, torch.tensor([7]), (4,), temperature=1e-4).correct.tolist() == [[True]]  # nothing overflows


def test_classes_with_equal_votes_rank_by_label() -> None:
    index, query = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    correct = [knn(index, torch.tensor([5, 2]), query, torch.tensor([label]), (2,)).correct.item() for label in (2, 5)]
    assert correct == [True, False]


def test_labels_are_any_whole_numbers_of_any_type() -> None:
    index, labels = clusters(300, 7, 2.0, 1)
    queries, truth = clusters(50, 7, 2.0, 2)
    names = torch.tensor([-4, 0, 9, 10**12, 10**12 + 1, 5, 77])
    expected = knn(index, labels, queries, truth, (10,))
    assert torch.equal(knn(index, names[labels], queries, names[truth], (10,)).correct, expected.correct)
    assert torch.equal(knn(index, labels.int(), queries, truth.short(), (10,)).correct, expected.correct)


def test_of_the_papers_numbers_those_that_fit() -> None:
    assert [ks_up_to(images) for images in (10, 199, 200, 10**6)] == [[10], [10, 20, 100], [10, 20, 100, 200], [10, 20, 100, 200]]
    with pytest.raises(
        UsageError, match="There are 9 training images, fewer than the paper's smallest k, 10; take more, or give smaller k"
    ):
        ks_up_to(9)
    assert (chosen_ks(None, 30), chosen_ks([7, 30], 30)) == ([10, 20], [7, 30])


@pytest.mark.parametrize("count", [1, 7, 250])
def test_chunks_do_not_show(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index, labels = clusters(700, 12, 2.0, 1)
    queries, truth = clusters(count, 12, 2.0, 2)
    whole = knn(index, labels, queries, truth)
    monkeypatch.setattr(module, "INDEX_CHUNK", 137)  # the last one is shorter than k, and all are shorter than 200
    monkeypatch.setattr(module, "QUERY_CHUNK", 3)
    monkeypatch.setattr(module, "VOTES", 50)
    parts = knn(index, labels, queries, truth)
    assert torch.equal(parts.correct, whole.correct)
    assert (parts.top1, parts.top5) == (whole.top1, whole.top5)


def test_half_precision_features_are_compared_in_float32() -> None:
    index, labels = clusters(300, 7, 2.0, 1)
    queries, truth = clusters(100, 7, 2.0, 2)
    index, queries = (x.div(x.norm(dim=1, keepdim=True)).bfloat16() for x in (index, queries))
    half, full = knn(index, labels, queries, truth), knn(index.float(), labels, queries.float(), truth)
    assert torch.equal(half.correct, full.correct)


def test_a_vector_of_zeros_is_like_nothing() -> None:
    index = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    report = knn(index, torch.tensor([0, 1, 2]), torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), (3,))
    assert report.correct.tolist() == [[True, True]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": torch.ones(30)}, "The index must be rows of features with one label a row"),
        ({"query_labels": torch.arange(9)}, r"The queries must be .* features \[10, 4\] and labels \[9\]"),
        ({"queries": torch.ones(0, 4), "query_labels": torch.ones(0)}, "The queries must be rows"),
        ({"queries": torch.ones(10, 5)}, "of the index have length 4, those of the queries 5"),
        ({"ks": (10, 31)}, r"k is \[10, 31\]; there are 30 training images, so each must be from 1 to 30"),
        ({"ks": ()}, r"k is \[\]"),
        ({"ks": (0, 10)}, r"k is \[0, 10\]"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"query_labels": torch.arange(10) // 8 + 9}, "Class 10 has no image in the index; of the queries, 2 are of such classes"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    given = {
        "ks": (10,),
        "index": torch.ones(30, 4),
        "index_labels": torch.arange(30) % 10,
        "queries": torch.ones(10, 4),
        "query_labels": torch.arange(10),
    }
    with pytest.raises(UsageError, match=message):
        knn(**{**given, **change})


@pytest.mark.parametrize(("name", "row"), [("index", 25), ("queries", 3)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_named(name: str, row: int, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INDEX_CHUNK", 10)
    features = {"index": torch.ones(30, 4), "queries": torch.ones(10, 4)}
    features[name][row, 2] = value
    with pytest.raises(UsageError, match=f"Feature {row} of the {name} is not finite"):
        knn(features["index"], torch.arange(30) % 10, features["queries"], torch.arange(10), (10,))
