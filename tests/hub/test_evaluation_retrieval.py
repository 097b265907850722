"""Images of known classes find their like as far as their features let them."""

import pytest
import torch
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.precision import rank_precision
from ibot_hub.evaluation.retrieval import check_gallery, retrieval


def clusters(count: int, noise: float, seed: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    directions = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % classes
    return directions[labels] + noise * torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), labels


def test_classes_that_lie_apart_are_found() -> None:
    report = retrieval(*clusters(100, 0.05, 1), *clusters(30, 0.05, 2))
    assert (report.mean_ap, report.mean_at) == (100, (100, 100, 100))
    assert (report.images, report.queries) == (100, 30)
    assert report.table.rows == ((30, 100, 100.0, 100.0, 100.0, 100.0),)
    assert report.table.columns == ("queries", "images", "mAP", "mP@1", "mP@5", "mP@10")


def test_permuted_labels_are_found_as_often_as_they_are() -> None:
    gallery, labels = clusters(400, 0.05, 1)
    permuted = labels[torch.randperm(400, generator=torch.Generator().manual_seed(3))]
    report = retrieval(gallery, permuted, *clusters(30, 0.05, 2), ks=(50,))
    assert report.mean_ap == pytest.approx(20, abs=4)
    assert report.mean_at[0] == pytest.approx(20, abs=4)


def test_without_queries_each_image_asks_for_the_others() -> None:
    gallery, labels = clusters(40, 1.0, 1)
    report = retrieval(gallery, labels)
    for image in range(40):
        others = [other for other in range(40) if other != image]
        alone = retrieval(gallery[others], labels[others], gallery[image : image + 1], labels[image : image + 1])
        assert report.ap[image] == pytest.approx(float(alone.ap[0]))
    assert report.queries == 40
    assert report.mean_ap == pytest.approx(100 * float(report.ap.mean()))


def test_labels_may_be_any_whole_numbers() -> None:
    gallery, labels = clusters(40, 1.0, 1)
    queries, wanted = clusters(10, 1.0, 2)
    found, named = retrieval(gallery, labels, queries, wanted), retrieval(gallery, labels * 7 - 3, queries, wanted * 7 - 3)
    assert found.ap.equal(named.ap)
    right = wanted[:, None] == labels
    assert found.ap.equal(rank_precision(gallery, queries, lambda part: (right[part], torch.zeros_like(right[part]))).ap)


def test_what_cannot_be_answered_is_refused() -> None:
    gallery, labels = clusters(20, 1.0, 1)
    queries, wanted = clusters(10, 1.0, 2)
    with pytest.raises(UsageError, match="Class 4 has no image in the gallery; of the queries, 2 are of such classes"):
        retrieval(gallery[labels < 4], labels[labels < 4], queries, wanted)
    with pytest.raises(UsageError, match="Class 0 has a single image, which finds no other"):
        retrieval(gallery[:6], torch.tensor([0, 1, 2, 2, 1, 2]))
    with pytest.raises(UsageError, match="Class 'cat' has a single image"):
        retrieval(gallery[:6], torch.tensor([0, 1, 2, 2, 1, 2]), classes=("cat", "cow", "dog"))
    check_gallery({"cat": 2, "cow": 3})
    with pytest.raises(UsageError, match="Class 'cow' has a single image"):
        check_gallery({"cat": 2, "cow": 1})
    with pytest.raises(UsageError, match="All images of the gallery are of one class"):
        check_gallery({"cat": 2})
    with pytest.raises(UsageError, match="All images of the gallery are of one class"):
        retrieval(gallery, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"The queries must be rows of features with one label a row; these are features \[10, 16\]"):
        retrieval(gallery, labels, queries, wanted[:9])
    with pytest.raises(UsageError, match=r"ks is \[0\]; each number of answers must be at least 1"):
        retrieval(gallery, labels, queries, wanted, ks=(0,))
    gallery[2, 1] = torch.inf
    with pytest.raises(UsageError, match="Feature 2 of the gallery is not finite"):
        retrieval(gallery, labels, queries, wanted)
