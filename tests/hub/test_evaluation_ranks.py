"""Ranks of true classes, counted one by one."""

import torch

from ibot_hub.evaluation.ranks import top, true_ranks


def test_ranks_are_places_in_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(4, (50, 3, 7), generator=generator).float()  # many equal ones
    truth = torch.randint(7, (50,), generator=generator)
    ranks = true_ranks(scores, truth)
    assert ranks.shape == (50, 3)
    for row in range(50):
        for column in range(3):
            order = sorted(range(7), key=lambda place: (-float(scores[row, column, place]), place))
            assert int(ranks[row, column]) == order.index(int(truth[row]))
    assert true_ranks(scores[:, 0], truth).equal(ranks[:, 0])


def test_top_is_a_share_of_the_last_dimension() -> None:
    assert top(torch.tensor([[0, 1, 5, 0], [9, 4, 4, 4]])).tolist() == [50, 0]
    assert top(torch.tensor([[0, 1, 5, 0], [9, 4, 4, 4]]), best=5).tolist() == [75, 75]
