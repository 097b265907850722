"""Indices are scikit-learn's, accuracy is that of the best of all assignments."""

import itertools
import sys

import numpy as np
import pytest
from sklearn import metrics

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.agreement import agreement, assigned_share, counted, summed


def drawn(images: int, clusters: int, classes: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A cluster follows from the class, but for a share of noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    return np.where(rng.random(images) < noise, rng.integers(clusters, size=images), labels * 7 % clusters), labels


def test_images_are_counted() -> None:
    found, labels = drawn(1000, 50, 10, 0.5)
    counts = counted(found, labels)
    assert counts[:, 2].sum() == 1000
    pairs = [tuple(pair) for pair in counts[:, :2].tolist()]
    assert pairs == sorted(set(zip(found.tolist(), labels.tolist(), strict=True)))
    for cluster, label, images in counts:
        assert images == ((found == cluster) & (labels == label)).sum()
    halves = np.concatenate([counted(found[500:], labels[500:]), counted(found[:500], labels[:500])])
    assert np.array_equal(summed(halves), counts)
    assert counted(found[:0], labels[:0]).shape == (0, 3)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("images", "clusters", "classes"), [(3000, 8192, 100), (3000, 30, 100), (300, 5, 3), (2, 4, 4)])
def test_indices_are_those_of_scikit_learn(images: int, clusters: int, classes: int, noise: float) -> None:
    found, labels = drawn(images, clusters, classes, noise)
    ours = agreement(counted(found, labels))
    assert ours.nmi == pytest.approx(metrics.normalized_mutual_info_score(labels, found), abs=1e-12)
    assert ours.ari == pytest.approx(metrics.adjusted_rand_score(labels, found), abs=1e-12)
    assert ours.fmi == pytest.approx(metrics.fowlkes_mallows_score(labels, found), abs=1e-12)


@pytest.mark.parametrize(("clusters", "classes"), [(5, 5), (6, 4), (3, 6)])
def test_accuracy_is_that_of_the_best_assignment(clusters: int, classes: int) -> None:
    """Every assignment tried out: one class a cluster, one cluster a class, the rest wrong."""
    found, labels = drawn(200, clusters, classes, 0.6, 3)
    few, many = min(clusters, classes), max(clusters, classes)
    small, large = (found, labels) if clusters <= classes else (labels, found)
    shares = [np.mean(np.array(chosen)[small] == large) for chosen in itertools.permutations(range(many), few)]
    assert assigned_share(counted(found, labels)) == pytest.approx(max(shares))


def test_known_answers() -> None:
    labels = np.arange(100) % 10
    permuted = np.random.default_rng(0).permutation(10)[labels] * 1000
    same = counted(permuted, labels)
    assert assigned_share(same) == 1
    assert [agreement(same).nmi, agreement(same).ari, agreement(same).fmi] == pytest.approx([1, 1, 1])
    assert assigned_share(counted(np.arange(100), labels)) == pytest.approx(0.1)  # a cluster an image: ten of them count
    assert assigned_share(counted(np.zeros(100, int), labels)) == pytest.approx(0.1)
    random, truth = drawn(20_000, 10, 10, 1.0)
    assert abs(agreement(counted(random, truth)).ari) < 0.005
    assert assigned_share(counted(random, truth)) < 0.13


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(*drawn(20, 5, 3, 0.5))
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    for function in (agreement, assigned_share):
        with pytest.raises(UsageError, match=r"pip install 'ibot-hub\[eval\]'"):
            function(counts)
