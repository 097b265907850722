"""The agreement of patterns with classes, whatever the order and the parts in which images come."""

import sys

import numpy as np
import pytest
import torch
from sklearn import metrics

from ibot_training import clusters as module
from ibot_training.clusters import Clusters, agreement


def drawn(images: int, patterns: int, classes: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A pattern follows from the class, but for a share of noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    found = np.where(rng.random(images) < noise, rng.integers(patterns, size=images), labels * 7 % patterns)
    return torch.tensor(found), torch.tensor(labels)


def counted(patterns: torch.Tensor, labels: torch.Tensor, batch: int = 16) -> Clusters:
    clusters = Clusters()
    for found, label in zip(patterns.split(batch), labels.split(batch), strict=True):
        clusters.add(found, label)
    return clusters


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("images", "patterns", "classes"), [(5000, 8192, 100), (5000, 30, 100), (300, 5, 3), (2, 4, 4)])
def test_numbers_are_those_of_scikit_learn(images: int, patterns: int, classes: int, noise: float) -> None:
    found, labels = drawn(images, patterns, classes, noise)
    ours = agreement(counted(found, labels).counts())
    assert ours == {
        "nmi": pytest.approx(metrics.normalized_mutual_info_score(labels, found), abs=1e-12),
        "ari": pytest.approx(metrics.adjusted_rand_score(labels, found), abs=1e-12),
        "fmi": pytest.approx(metrics.fowlkes_mallows_score(labels, found), abs=1e-12),
    }


def test_nothing_counted_has_no_numbers() -> None:
    assert agreement(Clusters().counts()) == {}


def test_without_scikit_learn_it_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    module._measurable.cache_clear()
    counts = counted(*drawn(20, 5, 3, 0.5)).counts()
    assert agreement(counts) == agreement(counts) == {}
    module._measurable.cache_clear()
    assert capsys.readouterr().err.count("pip install 'ibot-hub[train]'") == 1


def test_counts_are_whole_however_images_come(monkeypatch: pytest.MonkeyPatch) -> None:
    found, labels = drawn(1000, 50, 10, 0.5)
    whole = counted(found, labels, 1000).counts()
    assert whole[:, 2].sum() == 1000
    for pattern, label, images in whole:
        assert images == ((found == pattern) & (labels == label)).sum()
    monkeypatch.setattr(module, "PENDING", 100)
    assert np.array_equal(counted(found, labels, 7).counts(), whole)


def test_waiting_images_are_counted_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is that of the pairs, not of the images."""
    monkeypatch.setattr(module, "PENDING", 100)
    clusters = Clusters()
    for _ in range(50):
        clusters.add(torch.arange(16), torch.arange(16))
    assert sum(len(found) for found, _ in clusters._pending) < 100
    assert clusters.counts().tolist() == [[n, n, 50] for n in range(16)]


def test_processes_and_stopped_runs_add_up() -> None:
    found, labels = drawn(1000, 50, 10, 0.5)
    whole = counted(found, labels).counts()
    first, second = counted(found[:300], labels[:300]), counted(found[300:], labels[300:])
    second.merge(first.counts())
    assert np.array_equal(second.counts(), whole)
    empty = Clusters()
    assert empty.counts().shape == (0, 3)
    empty.merge(whole)
    empty.merge(Clusters().counts())
    assert np.array_equal(empty.counts(), whole)
