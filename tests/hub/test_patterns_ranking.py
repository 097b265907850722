"""The running selection equals a full sort, however the images are split, in a memory that does not grow."""

import numpy as np
import numpy.typing as npt
import pytest

from ibot_hub.patterns import ranking as ranking_module
from ibot_hub.patterns.ranking import MEMBER, Members, Ranking

PATTERNS, KEEP = 64, 12
Rows = tuple[npt.NDArray[np.int64], Members]


def rows(images: int, side: int = 10, seed: int = 0, levels: int = 40) -> Rows:
    """side * side patches of each image, whose confidences are so few that many are equal."""
    choose = np.random.default_rng(seed)
    members = np.zeros((images, side, side), MEMBER)
    members["confidence"] = choose.integers(0, levels, members.shape) / levels
    members["image"] = np.arange(images)[:, None, None]
    members["row"], members["column"] = np.indices(members.shape)[1:]
    members["width"] = 100 + members["image"]
    # some patterns gather much, some nothing
    patterns = np.minimum(choose.geometric(0.1, members.shape), PATTERNS - 2).reshape(-1)
    return patterns, members.reshape(-1)


def brute_force(patterns: npt.NDArray[np.int64], members: Members, per_image: int = 1) -> list[list[tuple[float, ...]]]:
    """Sort everything, then go through it and leave out what an image has too much of."""
    kept: list[list[tuple[float, ...]]] = [[] for _ in range(PATTERNS)]
    found = sorted(zip(patterns.tolist(), members.tolist(), strict=True), key=lambda row: (row[0], -row[1][0], *row[1][1:4]))
    for pattern, member in found:
        of_image = sum(other[1] == member[1] for other in kept[pattern])
        if len(kept[pattern]) < KEEP and of_image < per_image:
            kept[pattern].append(member)
    return kept


def ranked(rows: Rows, size: int, per_image: int = 1, *, backwards: bool = False) -> Ranking:
    """`size` images at a time, all or the last of them first."""
    ranking = Ranking(PATTERNS, KEEP, per_image)
    patterns, members = rows
    image = members["image"]
    starts = list(range(0, int(image.max()) + 1, size))
    for start in reversed(starts) if backwards else starts:
        batch = (image >= start) & (image < start + size)
        ranking.add(patterns[batch], members[batch])
    return ranking


def as_lists(ranking: Ranking) -> list[list[tuple[float, ...]]]:
    counts, members = ranking.members()
    return [part.tolist() for part in np.split(members, np.cumsum(counts)[:-1])]


@pytest.mark.parametrize("per_image", [1, 3])
def test_fifty_thousand_rows_equal_a_full_sort(per_image: int) -> None:
    patterns, members = rows(500)
    assert len(members) == 50_000
    expected = brute_force(patterns, members, per_image)
    assert [len(kept) for kept in expected].count(KEEP) > 20
    assert not expected[0]
    ranking = ranked((patterns, members), 7, per_image)  # merged some ten times
    assert as_lists(ranking) == expected
    assert ranking.sizes.tolist() == np.bincount(patterns, minlength=PATTERNS).tolist()


@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_size_and_order_of_batches_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_module, "WAITING", 10)
    every = rows(50, side=6, levels=5)
    whole = as_lists(ranked(every, 50))
    assert as_lists(ranked(every, size)) == whole
    assert as_lists(ranked(every, size, backwards=True)) == whole


def test_equals_are_told_apart_by_image_then_row_then_column() -> None:
    members = np.zeros(6, MEMBER)
    members["confidence"] = [0.5, 0.5, 0.5, 0.5, 0.5, 0.25]
    members["image"] = [1, 1, 0, 0, 0, 2]
    members["row"] = [0, 1, 2, 1, 1, 0]
    members["column"] = [3, 0, 0, 5, 4, 0]
    ranking = Ranking(1, 3)
    ranking.add(np.zeros(6, np.int64), members)
    assert [(member["image"], member["row"], member["column"]) for member in ranking.members()[1]] == [(0, 1, 4), (1, 0, 3), (2, 0, 0)]


def test_confidences_of_any_sign_are_ranked() -> None:
    members = np.zeros(7, MEMBER)
    members["confidence"] = [-0.5, 3e-39, -0.0, 2, 0.0, -np.inf, -70]
    members["image"] = np.arange(7)
    ranking = Ranking(1, 7)
    ranking.add(np.zeros(7, np.int64), members)
    assert ranking.members()[1]["image"].tolist() == [3, 1, 2, 4, 0, 6, 5]


def test_memory_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what is kept, half as many rows wait at most, and those of one call."""
    monkeypatch.setattr(ranking_module, "WAITING", 100)
    patterns, members = rows(400)
    ranking = Ranking(PATTERNS, KEEP)
    most = {40: 0, 400: 0}
    for image in range(400):
        batch = slice(100 * image, 100 * image + 100)
        ranking.add(patterns[batch], members[batch])
        held = sum(value.nbytes for value in vars(ranking).values() if isinstance(value, np.ndarray))
        held += sum(array.nbytes for pair in ranking._waiting for array in pair)
        for count in most:
            most[count] = max(most[count], held if image < count else 0)
    assert most[400] <= PATTERNS * (20 + KEEP * MEMBER.itemsize) + (PATTERNS * KEEP // 2 + 100) * (8 + MEMBER.itemsize)
    assert most[400] < 1.05 * most[40]


def test_nothing_is_kept_of_nothing() -> None:
    ranking = Ranking(PATTERNS, KEEP)
    assert ranking.members()[1].size == 0
    ranking.add(np.empty(0, np.int64), np.empty(0, MEMBER))
    assert (ranking.members()[1].size, ranking.sizes.sum()) == (0, 0)
