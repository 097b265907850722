"""Of every class a share is drawn, the same for the same seed."""

import pytest
import torch

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.subsets import drawn, held_out, parse_shares

LABELS = torch.cat([torch.full((count,), label) for label, count in enumerate((100, 1, 40, 3))])[
    torch.randperm(144, generator=torch.Generator().manual_seed(5))
]


@pytest.mark.parametrize(("share", "counts"), [(0.1, [10, 1, 4, 1]), (0.01, [1, 1, 1, 1]), (0.5, [50, 1, 20, 2]), (1.0, [100, 1, 40, 3])])
def test_a_share_of_every_class_but_at_least_one(share: float, counts: list[int]) -> None:
    rows = drawn(LABELS, share, 0)
    assert LABELS[rows].bincount().tolist() == counts
    assert (rows.diff() > 0).all()


def test_the_seed_decides() -> None:
    assert torch.equal(drawn(LABELS, 0.1, 3), drawn(LABELS, 0.1, 3))
    assert not torch.equal(drawn(LABELS, 0.1, 3), drawn(LABELS, 0.1, 4))
    several = torch.cat([drawn(LABELS, 0.1, seed) for seed in range(200)])
    assert len(several[LABELS[several] == 0].unique()) == 100  # no image is passed over


def test_what_is_held_out_is_the_rest() -> None:
    kept, held = held_out(LABELS, 0.2, 0)
    assert LABELS[held].bincount(minlength=4).tolist() == [20, 0, 8, 1]  # the last image of a class stays
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(144))
    assert torch.equal(held_out(LABELS, 0.2, 0)[1], held)
    with pytest.raises(UsageError, match="Each class has one training image, so none can be held out"):
        held_out(torch.arange(5), 0.5, 0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(UsageError, match=f"The share of the images is {share:g}; it must be above 0 and at most 1"):
        drawn(LABELS, share, 0)


def test_shares_in_words() -> None:
    assert parse_shares("1,10") == [1.0, 10.0]
    assert parse_shares("0.5") == [0.5]
    for text in ("", "1,", "0", "101", "1%", "a"):
        with pytest.raises(UsageError, match=r"it must be numbers above 0 and at most 100 with commas between"):
            parse_shares(text)
