"""Patches are dropped in the order and number that are asked for; nothing dropped changes nothing, all dropped leaves nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.labelled import labelled
from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.evaluation.occlusion import attention_levels, occlusion, random_levels, without
from ibot_hub.evaluation.options import OcclusionOptions
from ibot_hub.loading import load
from ibot_hub.model import Model
from tests.class_folders import write_classes

SMALL = OcclusionOptions(size=64, device="cpu", ratios="0.5,1", batch_size=5)


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("occlusion") / "images")


def head_of(model: Model, images: Path) -> LinearHead:
    """The class whose mean feature is nearest: exact on these images."""
    side = labelled(images, model, images.parent / model.card.arch.replace("/", "-"), SMALL)
    means = torch.stack([side.features[side.labels == place].mean(dim=0) for place in range(3)])
    return LinearHead(2 * means, -means.square().sum(dim=1), side.classes, 0.1, side.manifest)


def test_random_patches_are_as_many_as_asked_and_more_of_the_same() -> None:
    levels = random_levels((3, 4), 196, seed=1)
    counts = [[int((row <= ratio / 10).sum()) for ratio in range(11)] for row in levels]
    assert counts == [[round(196 * ratio / 10) for ratio in range(11)]] * 2
    assert not torch.equal(levels[0], levels[1])
    assert torch.equal(random_levels((4,), 196, seed=1)[0], levels[1])  # whatever the batch
    assert not torch.equal(random_levels((4,), 196, seed=2)[0], levels[1])


def test_attention_is_lost_from_the_strongest_or_from_the_weakest_on() -> None:
    attention = torch.tensor([[[0.1, 0.4], [0.2, 0.3]]]) / 3  # [CLS] attends to itself as well, so a map does not sum to 1
    for drop, expected in {
        "salient": {0.0: "", 0.1: "1", 0.4: "1", 0.5: "13", 0.75: "123", 1.0: "0123"},
        "non-salient": {0.0: "", 0.05: "", 0.1: "0", 0.35: "02", 0.6: "023", 0.9: "023", 1.0: "0123"},
    }.items():
        levels = attention_levels(attention, drop)[0]  # type: ignore[arg-type]
        found = {ratio: "".join(map(str, (levels <= ratio).nonzero()[:, 0].tolist())) for ratio in expected}
        assert found == expected, drop


def test_salient_patches_are_those_of_a_loop_and_the_rest_is_non_salient() -> None:
    """The official rule: ascending weights, of which those beyond 1 - ratio of their sum are salient."""
    attention = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)) ** 3
    for ratio in (0.1, 0.35, 0.6, 0.95):
        salient = attention_levels(attention, "salient") <= ratio
        rest = attention_levels(attention, "non-salient") <= 1 - ratio
        assert torch.equal(salient, ~rest)
        for row, weights in zip(salient.numpy(), attention.flatten(1).double().numpy(), strict=True):
            order = np.argsort(weights)
            expected = np.zeros(30, bool)
            expected[order[np.cumsum(weights[order] / weights.sum()) > 1 - ratio]] = True
            assert np.array_equal(row, expected)


def test_dropped_patches_are_zero_and_others_as_they_were() -> None:
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    dropped = torch.tensor([[[True, False, False], [False, False, True]], [[False] * 3] * 2])
    changed = without(images, dropped)
    assert not changed[0, :, :16, :16].any()
    assert not changed[0, :, 16:, 32:].any()
    assert torch.equal(changed[0, :, :16, 16:], images[0, :, :16, 16:])
    assert torch.equal(changed[0, :, 16:, :32], images[0, :, 16:, :32])
    assert torch.equal(changed[1], images[1])


def test_a_model_and_a_head_are_measured(model: Model, images: Path) -> None:
    report = occlusion(model, head_of(model, images), images, SMALL)
    assert (report.ratios, report.images) == ((0.0, 0.5, 1.0), 12)
    assert list(report.top1) == list(report.dropped) == ["random", "salient", "non-salient"]
    for drop, top1 in report.top1.items():
        assert top1[0] == 100.0
        assert top1[2] == pytest.approx(100 / 3)  # of nothing, one class for all
        assert report.dropped[drop][::2] == (0.0, 100.0)
    assert report.dropped["random"][1] == 50.0
    assert report.dropped["salient"][1] <= 50.0 <= report.dropped["non-salient"][1] + 100 / 16
    lines = report.table.text().splitlines()
    assert lines[1].split() == ["lost", "random", "patches", "salient", "patches", "non-salient", "patches"]
    assert [line.split()[0] for line in lines[2:]] == ["0", "0.5", "1"]
    again = occlusion(model, head_of(model, images), images, SMALL, batch_size=12, drop="non-salient,random")
    assert list(again.top1) == ["non-salient", "random"]
    assert {drop: report.top1[drop] for drop in again.top1} == again.top1


def test_a_swin_has_no_salience(golden: Path, images: Path) -> None:
    swin = load(golden / "swin_micro_w7_checkpoint.pth")
    head = head_of(swin, images)
    with pytest.raises(UsageError, match=r"A Swin has no \[CLS\], whose attention says .*; say --drop random, or take a ViT"):
        occlusion(swin, head, images, replace(SMALL, drop="random,salient"))
    report = occlusion(swin, head, images, replace(SMALL, drop="random"))
    assert (report.top1["random"][0], report.dropped["random"][1]) == (100.0, 50.0)
