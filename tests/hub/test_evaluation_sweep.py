"""All rates at once are what each rate alone gives; diverged ones are wrong, and disturb no other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibot_hub.evaluation import sweep as module
from ibot_hub.evaluation.sweep import RATES, Batches, Classifiers, measure, shuffled, training

CPU = torch.device("cpu")


def points(count: int, classes: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, width))
    return torch.tensor(centres[labels] + rng.normal(size=(count, width)), dtype=torch.float32), torch.tensor(labels)


def trained(batches: Batches, rates: Sequence[float] = RATES, **changes: Any) -> Classifiers:
    facts = {"classes": 4, "width": 7, "epochs": 5, "step_images": 25, "seed": 3, "device": CPU}
    *_, last = training(batches, rates, **{**facts, **changes})
    return last


def alone(batches: Batches, rate: float, epochs: int, step_images: int, first: Tensor) -> nn.Linear:
    """One classifier, its own optimiser, its own rate: the official loop."""
    layer = nn.Linear(first.shape[1], first.shape[0])
    layer.load_state_dict({"weight": first, "bias": torch.zeros(len(first))})
    optimiser = torch.optim.SGD(layer.parameters(), rate * step_images / 256, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs, eta_min=0)
    for epoch in range(epochs):
        for features, labels in batches(epoch):
            loss = nn.functional.cross_entropy(layer(features), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    return layer


def test_the_rates_are_the_official_ones() -> None:
    assert len(RATES) == 45
    assert np.allclose(RATES, [digit * 10.0**power for power in (-4, -3, -2, -1, 0) for digit in range(1, 10)])


def test_equals_45_separate_runs() -> None:
    features, labels = points(110, 4, 7)  # the last step of an epoch has ten images
    batches = shuffled(features, labels, torch.arange(110), 25, 3)
    heads = trained(batches)
    first = 0.01 * torch.randn(4, 7, generator=torch.Generator().manual_seed(3))
    for index, rate in enumerate(RATES):
        own = alone(batches, rate, 5, 25, first)
        assert torch.allclose(heads.weight[index], own.weight, rtol=1e-4, atol=1e-6), rate
        assert torch.allclose(heads.bias[index], own.bias, rtol=1e-4, atol=1e-6), rate
    assert not torch.allclose(heads.weight[0], heads.weight[-1], atol=0.1)


def test_what_a_rate_gives_does_not_hang_on_the_others() -> None:
    features, labels = points(60, 4, 7)
    batches = shuffled(features, labels, torch.arange(60), 25, 0)
    together, single = trained(batches, (0.5, torch.inf)), trained(batches, (0.5,))
    assert torch.allclose(together.weight[0], single.weight[0], rtol=1e-4, atol=1e-6)
    assert not together.weight[1].isfinite().all()
    found = measure(together, features, labels)
    assert (found.ranks[1] == 4).all()  # behind all four classes
    assert not found.losses[1].isfinite()
    assert torch.equal(found.ranks[0], measure(single, features, labels).ranks[0])


def test_the_seed_decides() -> None:
    features, labels = points(60, 4, 7)
    batches = shuffled(features, labels, torch.arange(60), 25, 0)
    once, again, other = (trained(batches, (0.1,), seed=seed).weight for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_initial_weights_are_the_official_ones() -> None:
    features, labels = points(4, 4, 3000)
    heads = trained(shuffled(features, labels, torch.arange(4), 4, 0), (0.0,), width=3000, epochs=1)
    assert heads.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert heads.weight.mean().item() == pytest.approx(0, abs=3e-4)
    assert not heads.bias.any()


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    labels = torch.arange(100)
    batches = shuffled(labels[:, None].float(), labels, torch.arange(10, 80), 30, 5)
    first, second = ([seen for _, seen in batches(epoch)] for epoch in (0, 1))
    assert [len(step) for step in first] == [30, 30, 10]
    assert torch.cat(first).sort().values.tolist() == torch.cat(second).sort().values.tolist() == list(range(10, 80))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert torch.cat(first).tolist() == torch.cat([seen for _, seen in batches(0)]).tolist()
    assert all(torch.equal(features[:, 0].long(), seen) for features, seen in batches(1))


def test_ranks_are_places_in_the_order_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    heads = Classifiers((0.1, 0.2), torch.randn(2, 6, 3, generator=rng), torch.randn(2, 6, generator=rng))
    features, labels = torch.randn(50, 3, generator=rng), torch.arange(50) % 6
    expected, losses = [], []
    for weight, bias in zip(heads.weight.double(), heads.bias.double(), strict=True):
        order = (features.double() @ weight.T + bias).argsort(dim=1, descending=True)
        expected.append((order == labels[:, None]).int().argmax(dim=1))
        losses.append(nn.functional.cross_entropy(features.double() @ weight.T + bias, labels))
    whole = measure(heads, features, labels)
    assert torch.equal(whole.ranks, torch.stack(expected))
    assert torch.allclose(whole.losses, torch.stack(losses), rtol=1e-5)
    monkeypatch.setattr(module, "LOGITS", 40)
    parts = measure(heads, features, labels)
    assert torch.equal(parts.ranks, whole.ranks)
    assert torch.allclose(parts.losses, whole.losses, rtol=1e-5)


def test_equal_logits_rank_by_label() -> None:
    same = Classifiers((1.0,), torch.zeros(1, 3, 2), torch.zeros(1, 3))
    assert measure(same, torch.ones(3, 2), torch.arange(3)).ranks.tolist() == [[0, 1, 2]]
