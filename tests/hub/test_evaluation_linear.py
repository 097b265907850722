"""Linear probing finds what is there and no more, as scikit-learn does; rates are chosen where it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.linear import held_out, linear, probed
from ibot_hub.evaluation.options import SweepOptions
from ibot_hub.evaluation.sweep import RATES
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.vit import ViT

FAST = SweepOptions(epochs=20, step_images=64, device="cpu")


def clusters(count: int, noise: float, seed: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    centres = np.random.default_rng(0).normal(size=(classes, 16))
    labels = np.arange(count) % classes
    features = centres[labels] + noise * np.random.default_rng(seed).normal(size=(count, 16))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize("select", ["held-out", "validation"])
def test_separable_classes_are_told_apart(select: str) -> None:
    report = linear(*clusters(500, 0.05, 1), *clusters(200, 0.05, 2), FAST, select=select)
    assert (report.top1, report.top5) == (100.0, 100.0)
    assert report.correct.all()
    assert max(report.accuracies) == 100.0
    assert min(report.accuracies) < 100.0  # the lowest rate learns little in so few steps


def test_permuted_labels_give_chance() -> None:
    (features, labels), (others, truth) = clusters(500, 0.05, 1), clusters(400, 0.05, 2)
    rng = torch.Generator().manual_seed(0)
    report = linear(features, labels[torch.randperm(500, generator=rng)], others, truth[torch.randperm(400, generator=rng)], FAST)
    assert 4 < report.top1 < 18
    assert 40 < report.top5 < 60


def test_is_as_good_as_logistic_regression() -> None:
    train, val = clusters(1000, 1.0, 1), clusters(1000, 1.0, 2)
    peer = LogisticRegression(C=100, max_iter=2000).fit(train[0].numpy(), train[1].numpy())
    expected = 100 * peer.score(val[0].numpy(), val[1].numpy())
    assert 60 < expected < 95
    assert linear(*train, *val, FAST).top1 == pytest.approx(expected, abs=2.5)


def test_the_report_holds_the_classifier_that_was_measured() -> None:
    (features, labels), (others, truth) = clusters(300, 1.0, 1), clusters(200, 1.0, 2)
    report = linear(features, labels, others, truth, FAST)
    logits = others @ report.weight.T + report.bias
    assert torch.equal(logits.argmax(dim=1) == truth, report.correct)
    assert report.top1 == pytest.approx(100 * report.correct.double().mean().item())
    among = (logits.topk(5, dim=1).indices == truth[:, None]).any(dim=1)
    assert report.top5 == pytest.approx(100 * among.double().mean().item())
    assert (report.images, report.chosen_on, report.epoch, report.augmented) == (300, 30, 20, False)
    assert report.accuracies[RATES.index(report.rate)] == max(report.accuracies)


def test_of_equally_accurate_rates_the_one_with_the_lowest_loss_is_taken() -> None:
    """On ten held-out images many rates are right in all; the lowest of them has learned least."""
    sides = (*clusters(100, 0.3, 1), *clusters(400, 0.3, 2))
    report = linear(*sides, FAST)
    assert report.accuracies.count(100.0) > 5
    assert report.rate > RATES[report.accuracies.index(100.0)]
    assert report.top1 == 100.0


def test_same_seed_same_numbers() -> None:
    sides = (*clusters(300, 1.0, 1), *clusters(200, 1.0, 2))
    once, again, other = (linear(*sides, FAST, seed=seed, epochs=3) for seed in (0, 0, 1))
    assert torch.equal(once.weight, again.weight)
    assert once.accuracies == again.accuracies
    assert not torch.equal(once.weight, other.weight)


def test_a_rate_is_chosen_without_a_look_at_the_validation_images() -> None:
    train, (others, truth) = clusters(300, 1.0, 1), clusters(200, 1.0, 2)
    one = linear(*train, others, truth, FAST, epochs=3)
    other = linear(*train, others, truth.flip(0), FAST, epochs=3)
    assert one.accuracies == other.accuracies
    assert torch.equal(one.weight, other.weight)


def test_validation_takes_the_best_of_all_epochs_and_rates() -> None:
    train, val = clusters(200, 2.0, 1), clusters(100, 2.0, 2)
    report = linear(*train, *val, FAST, select="validation", epochs=8, step_images=20)
    assert report.top1 == max(report.accuracies)
    assert 1 <= report.epoch <= 8
    assert report.chosen_on == 100
    shorter = linear(*train, *val, FAST, select="validation", epochs=8, step_images=20)
    assert (shorter.epoch, shorter.rate) == (report.epoch, report.rate)


def test_some_of_every_class_are_held_out() -> None:
    labels = torch.tensor([0] * 40 + [1] * 5 + [2] * 1 + [4] * 2)  # no image of class 3
    kept, held = held_out(labels, 0.1, 0)
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(48))
    assert labels[held].bincount(minlength=5).tolist() == [4, 1, 0, 0, 1]
    assert (kept.diff() > 0).all()
    assert (held.diff() > 0).all()
    assert not torch.equal(held, held_out(labels, 0.1, 1)[1])


def test_the_table_says_what_was_measured() -> None:
    report = linear(*clusters(300, 0.05, 1), *clusters(200, 0.05, 2), FAST)
    lines = report.table.text().splitlines()
    assert lines[0] == "linear probing (Table 1): top-1 100.00, top-5 100.00 per cent of 200 validation images"
    assert "trained on features computed once, without augmentation; learning rate" in lines[1]
    assert lines[1].endswith("per cent of 30 held-out training images")
    assert lines[2].split()[:3] == ["rate", "x", "1"]
    assert [line.split()[0] for line in lines[3:]] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert "fresh random crops in each epoch" in replace(report, augmented=True).table.title
    assert "of 200 validation images" in replace(report, select="validation", chosen_on=200).table.title.splitlines()[1]


def test_models_are_probed_as_in_the_paper(golden: Path) -> None:
    assert probed(load("tiny")) == (4, "cls")
    micro, swin = (load(golden / f"{name}_checkpoint.pth") for name in ("vit_micro", "swin_micro_w7"))
    assert probed(micro) == (2, "cls")  # it has no more blocks
    assert probed(swin) == (4, "cls")
    wide = ViT.on_meta(img_size=32, patch_size=16, embed_dim=768, depth=12, num_heads=12)
    assert probed(Model(wide, None, None, micro.transform, micro.card)) == (1, "cls+mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": torch.ones(20)}, "The training side must be rows of features with one label a row"),
        ({"val_labels": torch.arange(9)}, r"The validation side must be .* features \[10, 4\] and labels \[9\]"),
        ({"val": torch.ones(10, 5)}, "Training features have length 4, those of validation 5"),
        ({"val_labels": torch.arange(10) + 3}, "Class 10 has no training image; 3 classes"),
        ({"train_labels": torch.arange(20) % 10 - 1}, "Label -1 is below 0"),
        ({"val": torch.full((10, 4), float("nan"))}, "Feature 0 of the validation side is not finite"),
        ({"train_labels": torch.arange(20)}, "Each class has one training image, so none can be held out"),
        ({"held_out": 1.0}, "held_out is 1.0; it must be above 0 and below 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    given = {
        "train": torch.ones(20, 4),
        "train_labels": torch.arange(20) % 10,
        "val": torch.ones(10, 4),
        "val_labels": torch.arange(10),
    }
    with pytest.raises(UsageError, match=message):
        linear(**{**given, **change})


def test_one_image_a_class_is_enough_where_validation_chooses() -> None:
    features, labels = clusters(10, 0.05, 1)
    assert linear(features, labels, *clusters(50, 0.05, 2), FAST, select="validation").top1 == 100.0
