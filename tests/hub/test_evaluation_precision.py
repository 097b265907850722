"""Average precision is the area that others compute, and precision at k counts as the revisited benchmark counts."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import auc, precision_recall_curve
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation import precision as module
from ibot_hub.evaluation.precision import Truth, average_precision, rank_precision

Array = npt.NDArray[Any]
GALLERY, QUERIES = 60, 25


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(GALLERY, 8) * torch.rand(GALLERY, 1) * 100, torch.randn(QUERIES, 8)  # lengths that the cosine must not see


@pytest.fixture
def masks() -> tuple[Tensor, Tensor]:
    """A fifth of the images is right for each query, another fifth is junk."""
    drawn = torch.randint(0, 5, (QUERIES, GALLERY), generator=torch.Generator().manual_seed(1))
    return drawn == 0, drawn == 1


def of(right: Tensor, junk: Tensor) -> Truth:
    return lambda part: (right[part], junk[part])


def cosines(features: tuple[Tensor, Tensor]) -> Array:
    gallery, queries = (rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True) for rows in features)
    answer: Array = queries @ gallery.T
    return answer


def plain(similarity: Array, right: Array, junk: Array, ks: tuple[int, ...]) -> tuple[float, list[float]]:
    """One query, answer by answer: the area by trapezoids, and precision among the first k or as many as it takes to find all."""
    order = [image for image in np.argsort(-similarity) if not junk[image]]
    area, found, hits = 0.0, 0, []
    for rank, image in enumerate(order):
        if right[image]:
            before = found / rank if rank else 1.0
            found += 1
            area += (before + found / (rank + 1)) / 2
            hits.append(rank + 1)
    total = len(hits)
    precisions = []
    for k in ks:
        bound = min(k, hits[-1])
        precisions.append(sum(place <= bound for place in hits) / bound)
    return area / total, precisions


def test_an_area_counted_by_hand() -> None:
    """Right at places 1 and 3 of 4: trapezoids from 1 to 1, and from 1/2 to 2/3."""
    right = torch.tensor([[True, False, True, False]])
    ap, at = average_precision(right, torch.zeros_like(right), (1, 2, 10))
    assert ap.tolist() == pytest.approx([(1 + (1 / 2 + 2 / 3) / 2) / 2])
    assert at[0].tolist() == pytest.approx([1, 1 / 2, 2 / 3])  # of 10 answers only the first 3 are needed


def test_junk_is_neither_right_nor_wrong() -> None:
    right = torch.tensor([[False, True, False, True, False]])
    junk = torch.tensor([[True, True, False, False, True]])  # the second is both, which is junk
    ap, at = average_precision(right, junk, (1, 5))
    assert ap.tolist() == pytest.approx([(0 / 1 + 1 / 2) / 2])
    assert at[0].tolist() == [0, 0.5]


def test_without_a_right_image_there_is_no_number(features: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> None:
    right, junk = masks
    rest = rank_precision(*features, of(right, junk)).ap
    right = right.clone()
    right[3] = False
    found = rank_precision(*features, of(right, junk))
    assert found.ap.isnan().nonzero().tolist() == [[3]]
    assert found.at.isnan().all(dim=1).nonzero().tolist() == [[3]]
    others = [row for row in range(QUERIES) if row != 3]
    assert found.mean_ap == pytest.approx(100 * float(rest[others].mean()))


def test_equals_a_plain_implementation(features: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> None:
    found = rank_precision(*features, of(*masks), ks=(1, 5, 10))
    expected = [plain(*row, (1, 5, 10)) for row in zip(cosines(features), *(mask.numpy() for mask in masks), strict=True)]
    assert found.ap.tolist() == pytest.approx([ap for ap, _ in expected])
    assert found.at.numpy() == pytest.approx(np.array([at for _, at in expected]))
    assert found.mean_ap == pytest.approx(100 * np.mean([ap for ap, _ in expected]))
    assert found.mean_at == pytest.approx(tuple(100 * np.mean([at for _, at in expected], axis=0)))


def test_equals_the_area_of_scikit_learn(features: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> None:
    right = masks[0]
    found = rank_precision(*features, of(right, torch.zeros_like(right)))
    for row, similarity in enumerate(cosines(features)):
        precision, recall, _ = precision_recall_curve(right[row].numpy(), similarity)
        assert float(found.ap[row]) == pytest.approx(auc(recall, precision))


def test_right_answers_first_are_all_there_is(features: tuple[Tensor, Tensor]) -> None:
    order = torch.tensor(np.argsort(-cosines(features), axis=1).copy())
    right = torch.zeros(QUERIES, GALLERY, dtype=torch.bool).scatter_(1, order[:, :4], True)
    none = torch.zeros_like(right)
    best, last = rank_precision(*features, of(right, none)), rank_precision(-features[0], features[1], of(right, none))
    assert (best.mean_ap, best.mean_at) == (100, (100, 100, 100))
    assert last.mean_ap < 10
    assert last.mean_at == (0, 0, 0)


def test_beyond_the_depth_nothing_is_found() -> None:
    right = torch.tensor([[False, False, True, True]])
    none = torch.zeros_like(right)
    whole, three, two = (average_precision(right, none, (1,), depth)[0] for depth in (None, 3, 2))
    assert three.tolist() == pytest.approx([(0 + 1 / 3) / 2 / 2])  # of two right images, as before
    assert float(whole) > float(three) > float(two) == 0


def test_of_equally_near_images_the_earlier_one_comes_first() -> None:
    gallery = torch.ones(5, 3)
    right = torch.tensor([[False, True, False, False, False]])
    assert rank_precision(gallery, torch.ones(1, 3), of(right, torch.zeros_like(right))).ap.tolist() == pytest.approx([(0 + 1 / 2) / 2])


def test_queries_go_in_parts(features: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rank_precision(*features, of(*masks))
    monkeypatch.setattr(module, "SIMILARITIES", 4 * GALLERY)
    parts: list[slice] = []

    def told(part: slice) -> tuple[Tensor, Tensor]:
        parts.append(part)
        return of(*masks)(part)

    assert rank_precision(*features, told).ap.equal(whole.ap)
    assert [(part.start, part.stop) for part in parts] == [(start, min(start + 4, QUERIES)) for start in range(0, QUERIES, 4)]


def test_what_cannot_be_ranked_is_refused(features: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> None:
    gallery, queries = features
    with pytest.raises(UsageError, match=r"\[60, 8\] of the gallery, \[25, 7\] of the queries"):
        rank_precision(gallery, queries[:, :7], of(*masks))
    broken = gallery.clone()
    broken[4, 0] = torch.nan
    with pytest.raises(UsageError, match="Feature 4 of the gallery is not finite"):
        rank_precision(broken, queries, of(*masks))
    with pytest.raises(UsageError, match="Feature 4 of the queries is not finite"):
        rank_precision(gallery, broken, of(*masks))
