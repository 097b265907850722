"""Means of patches by attention are what loops give, and their probing finds where classes are told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import SweepOptions
from ibot_hub.evaluation.parts import PartMeans, means_by_attention, part_means, parts, scaled_counts
from ibot_hub.images import decode
from ibot_hub.loading import load
from tests.class_folders import ANIMALS, write_classes

FAST = SweepOptions(size=64, device="cpu", epochs=5, step_images=64)


def test_means_are_those_of_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    attention, patches = torch.rand(3, 4, 5, generator=rng), torch.randn(3, 4, 5, 6, generator=rng)
    top, bottom = means_by_attention(attention, patches, (1, 7, 20))
    assert top.shape == bottom.shape == (3, 3, 6)
    for image in range(3):
        order = np.argsort(-attention[image].flatten().numpy())
        rows = patches[image].flatten(0, 1).numpy()[order]
        for index, count in enumerate((1, 7, 20)):
            assert np.allclose(top[index, image], rows[:count].mean(axis=0), atol=1e-5)
            assert np.allclose(bottom[index, image], rows[-count:].mean(axis=0), atol=1e-5)


def test_numbers_of_patches_are_the_papers_in_proportion() -> None:
    assert scaled_counts(196) == (1, 7, 14, 56, 112, 196)
    assert scaled_counts(64) == (1, 2, 5, 18, 37, 64)
    assert scaled_counts(4) == (1, 2, 4)


def test_images_become_means_without_the_final_norm(golden: Path, tmp_path: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    source = write_classes(tmp_path / "images", 2)
    (source / "cat" / "2.png").write_bytes(b"no image")
    means = part_means(model, source, replace(FAST, batch_size=4))
    assert means.left_out == 1
    assert (means.counts, means.patches, means.top.shape) == ((1, 5, 9, 16), 16, (4, 6, 128))
    assert means.classes == tuple(name for name in ANIMALS for _ in range(2))
    transform = replace(model.transform, size=64)
    image = transform(decode(source / "bee" / "1.png"))[None]
    attention = model.attention(image)[0].mean(dim=0).flatten()  # [16]
    raw = []  # what enters the final norm
    handle = model.backbone.norm.register_forward_pre_hook(lambda _, given: raw.append(given[0]))
    with torch.no_grad():
        model(image)
    handle.remove()
    patches = raw[0][0, 1:]
    assert torch.allclose(means.top[0, 3], patches[attention.argmax()], atol=1e-4)
    assert torch.allclose(means.bottom[0, 3], patches[attention.argmin()], atol=1e-4)
    assert torch.allclose(means.top[-1, 3], patches.mean(dim=0), atol=1e-4)
    assert torch.allclose(means.top[-1], means.bottom[-1], atol=1e-4)


def synthetic(count: int, seed: int) -> PartMeans:
    """Of 16 patches the strongest tell the class, the weakest are noise."""
    rng = torch.Generator().manual_seed(seed)
    names = tuple("abcd"[index % 4] for index in range(count))
    told = torch.eye(4)[torch.arange(count) % 4] + 0.01 * torch.randn(count, 4, generator=rng)
    noise = torch.randn(count, 4, generator=rng)
    return PartMeans((1, 16), 16, torch.stack([told, told + noise / 20]), torch.stack([noise, told + noise / 20]), names, 0)


def test_classes_are_found_where_they_are() -> None:
    report = parts(synthetic(200, 1), synthetic(120, 2), FAST)
    assert (report.counts, report.top, report.images, report.queries) == ((1, 16), (100.0, 100.0), 200, 120)
    assert 10 < report.bottom[0] < 42
    assert report.bottom[1] == 100.0
    lines = report.table.text().splitlines()
    assert lines[0].startswith("part-wise linear probing (Fig. 5): top-1 in per cent of 120 validation images")
    assert lines[2].split() == ["1", "100.00", f"{report.bottom[0]:.2f}"]


def test_what_does_not_fit_together_is_refused(golden: Path, tmp_path: Path) -> None:
    one = synthetic(8, 1)
    with pytest.raises(UsageError, match="The training images have 16 patches and those of validation 9"):
        parts(one, replace(one, patches=9))
    with pytest.raises(UsageError, match="Class 'z' has images in the validation side, but none in the training side"):
        parts(one, replace(one, classes=(*one.classes[:-1], "z")))
    with pytest.raises(UsageError, match=r"A Swin has no \[CLS\] token"):
        part_means(load(golden / "swin_micro_w7_checkpoint.pth"), tmp_path)
