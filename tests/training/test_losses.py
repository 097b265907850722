"""The losses, against the official ones written out slowly: a loop over pairs of views, crops, images, patches."""

import pytest
import torch
from torch import Tensor

from ibot_training.losses import cls_share, moved_centre, patch_loss, patch_weights, targets

BATCH, PATTERNS, TEMPERATURE = 3, 7, 0.1


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Cross-entropy of probabilities [K] and logits [K]."""
    return -(teacher * torch.log_softmax(student / TEMPERATURE, dim=-1)).sum()


def cls_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """What all crops add: the teacher's own together, the first of the others, and the rest of them."""
    count, views = len(teacher), len(student)
    parts = [student[:count], student[count : count + 1], student[count + 1 :]]
    shares = [cls_share(part, teacher, TEMPERATURE, views=views, same=part is parts[0]) for part in parts if len(part)]
    return torch.stack(shares).sum()


@pytest.mark.parametrize(("globals_", "locals_"), [(2, 10), (2, 0), (1, 2), (3, 1), (4, 0)])
def test_cls_is_the_mean_over_pairs_of_different_crops(globals_: int, locals_: int) -> None:
    views = globals_ + locals_
    student = (0.5 * normal(views, BATCH, PATTERNS)).requires_grad_()
    teacher = torch.softmax(normal(globals_, BATCH, PATTERNS, seed=1) / 0.05, dim=-1)
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for q in range(globals_):
        for v in range(views):
            if v != q:
                total = total + torch.stack([entropy(teacher[q, b], student[v, b]) for b in range(BATCH)]).mean()
                pairs += 1
    ours = cls_loss(student, teacher)
    assert pairs == globals_ * (views - 1)
    torch.testing.assert_close(ours.double(), total / pairs, rtol=1e-6, atol=0)
    torch.testing.assert_close(*torch.autograd.grad(ours, student), *torch.autograd.grad(total / pairs, student), rtol=1e-5, atol=1e-6)


def test_one_crop_has_no_pair() -> None:
    """It may be trained by its patches alone, so the sum of both losses must stay a number."""
    student = normal(1, BATCH, PATTERNS).requires_grad_()
    loss = cls_loss(student, torch.softmax(normal(1, BATCH, PATTERNS), -1))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, student)[0].any()


def hidden_of(*shape: int, seed: int, shown: tuple[int, ...] = ()) -> Tensor:
    """bool [crops, H, W]; of the crops `shown` nothing is hidden."""
    mask = normal(*shape, seed=seed) > 0.4
    mask[list(shown)] = False
    return mask


@pytest.mark.parametrize(
    "masks",
    [
        [hidden_of(2 * BATCH, 4, 4, seed=2)],
        [hidden_of(2 * BATCH, 4, 4, seed=3, shown=(0, 4))],  # images without a hidden patch count as 0
        [hidden_of(2 * BATCH, 5, 4, seed=4, shown=(3, 4, 5))],  # the second view shows all
        [hidden_of(BATCH, 4, 4, seed=5)],
        [hidden_of(2 * BATCH, 4, 4, seed=6, shown=(1,)), hidden_of(4 * BATCH, 2, 2, seed=7, shown=(2, 3, 9))],  # locals too
        [torch.zeros(2 * BATCH, 4, 4, dtype=torch.bool)],
    ],
    ids=["both", "some are shown", "one view", "one crop", "all crops", "none"],
)
def test_patches_are_averaged_by_crop_and_then_over_all_crops(masks: list[Tensor]) -> None:
    crops = [crop for mask in masks for crop in mask.flatten(1)]
    count = sum(len(crop) for crop in crops)
    logits = (0.5 * normal(count, PATTERNS)).requires_grad_()
    probabilities = torch.softmax(normal(count, PATTERNS, seed=1) / 0.05, dim=-1)
    total, place = torch.zeros((), dtype=torch.float64), 0
    views = len(crops) // BATCH
    for crop in crops:
        sums = torch.zeros((), dtype=torch.float64)
        for hidden in crop.tolist():
            sums = sums + hidden * entropy(probabilities[place], logits[place])
            place += 1
        total = total + sums / max(int(crop.sum()), 1) / BATCH  # the mean over the batch, of each view
    everywhere = torch.cat(crops)
    ours = patch_loss(logits[everywhere], probabilities[everywhere], patch_weights(masks), TEMPERATURE)
    torch.testing.assert_close(ours.double(), total / views, rtol=1e-6, atol=0)
    gradient = torch.autograd.grad(ours, logits)[0]
    torch.testing.assert_close(gradient, *torch.autograd.grad(total / views + 0 * logits.sum(), logits), rtol=1e-5, atol=1e-6)


def test_weights_of_views_with_their_own_ratios() -> None:
    """1 / (hidden patches of the crop * crops)."""
    mask = torch.zeros(4, 2, 2, dtype=torch.bool)
    mask[0, 0, 0] = mask[2, 1, 0] = mask[2, 1, 1] = True
    mask[3] = True
    assert patch_weights([mask]).tolist() == pytest.approx([1 / 4, 1 / 8, 1 / 8, *[1 / 16] * 4])
    assert patch_weights([mask[:2], mask[2:]]).tolist() == pytest.approx([1 / 4, 1 / 8, 1 / 8, *[1 / 16] * 4])
    assert patch_weights([mask]).dtype == torch.float32


def test_targets_are_sharpened_and_centred() -> None:
    logits, centre = normal(2, BATCH, PATTERNS), normal(PATTERNS, seed=1)
    for given, shift in ((centre, centre.tolist()), (None, [0.0] * PATTERNS)):
        ours = targets(logits, given, 0.04)
        for place in range(2 * BATCH):
            row = [(value - off) / 0.04 for value, off in zip(logits.flatten(0, 1)[place].tolist(), shift, strict=True)]
            powers = torch.tensor(row, dtype=torch.float64).exp()
            torch.testing.assert_close(ours.flatten(0, 1)[place].double(), powers / powers.sum(), rtol=1e-4, atol=1e-6)


def test_hard_targets_are_the_most_likely_pattern_after_centring() -> None:
    logits = torch.tensor([[3.0, 2.9, 0.0], [0.0, 0.5, 0.1]])
    assert targets(logits, torch.tensor([1.0, 0.0, 0.0]), 0.07, hard=True).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert targets(logits, None, 0.07, hard=True).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_half_precision_logits_give_float32_losses() -> None:
    half = normal(2, BATCH, PATTERNS).half()
    answer = targets(half, None, 0.04)
    assert answer.dtype == torch.float32
    assert torch.equal(answer, targets(half.float(), None, 0.04))
    assert torch.equal(cls_loss(half, answer), cls_loss(half.float(), answer))
    rows, weights = half.flatten(0, 1), torch.full((2 * BATCH,), 0.2)
    ours = patch_loss(rows, answer.flatten(0, 1), weights, TEMPERATURE)
    assert torch.equal(ours, patch_loss(rows.float(), answer.flatten(0, 1), weights, TEMPERATURE))
    assert ours.dtype == torch.float32


def test_the_centre_is_a_slow_mean() -> None:
    moved = moved_centre(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0]), 0.9)
    assert moved.tolist() == pytest.approx([0.9 * 1 + 0.1 * 3, -1.8])
