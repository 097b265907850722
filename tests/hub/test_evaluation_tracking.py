"""Clips in the layout of DAVIS are measured frame by frame, as DAVIS measures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.errors import ImageError, StoreError, UsageError
from ibot_hub.evaluation import tracking as module
from ibot_hub.evaluation.clips import Labels, read_clips, read_mask
from ibot_hub.evaluation.masks import contour_accuracy, region_similarity
from ibot_hub.evaluation.options import PropagationOptions
from ibot_hub.evaluation.tracking import TrackedObject, TrackingReport, evaluate_tracking, write_labels
from ibot_hub.images import ImageTransform
from ibot_hub.model import Card, Model
from ibot_hub.vit import ViT

FRAMES = 5


@pytest.fixture(scope="module")
def blind() -> Model:
    """An untrained ViT that sees colours and edges, and whose tokens move along with the patches, since its position table is zero."""
    torch.manual_seed(0)
    network = ViT(img_size=64, patch_size=8, embed_dim=64, depth=1, num_heads=1).eval()
    torch.nn.init.zeros_(network.pos_embed)
    return Model(network, None, None, ImageTransform(64, patch=8), Card("blind", "ViT-64x1/8", None))


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two clips: two squares that move by steps of 8 pixels; and one, of which only every other frame has a mask."""
    ground = np.random.default_rng(0).integers(90, 130, (128, 192, 3), dtype=np.uint8)
    for name, squares in (("both", {1: (24, 24), 2: (64, 120)}), ("one", {3: (40, 64)})):
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / kind / "480p" / name).mkdir(parents=True)
        for step in range(FRAMES):
            frame, labels = ground.copy(), np.zeros((128, 192), dtype=np.uint8)
            for number, (top, left) in squares.items():
                part = (slice(top, top + 40), slice(left + 8 * step, left + 8 * step + 40))
                frame[part] = np.array([[250, 80, 20], [20, 200, 90], [60, 60, 250]])[number - 1]
                labels[part] = number
            labels[:8] = 255  # nobody has decided
            Image.fromarray(frame).save(tmp_path / "JPEGImages/480p" / name / f"{step:05d}.jpg", quality=95)
            if name == "both" or step % 2 == 0:
                write_labels(labels, tmp_path / "Annotations/480p" / name / f"{step:05d}.png")
    return tmp_path


def test_numbers_are_those_of_the_written_masks(blind: Model, davis: Path) -> None:
    clips = read_clips(davis)
    out = davis / "found"
    report = evaluate_tracking(blind, clips, out, size=128, device="cpu")
    assert [(found.clip, found.number, found.frames) for found in report.objects] == [("both", 1, 3), ("both", 2, 3), ("one", 3, 1)]
    for found, clip in zip(report.objects, (clips[0], clips[0], clips[1]), strict=True):
        regions, contours = [], []
        for index in [1, 2, 3] if clip.name == "both" else [2]:
            true = read_mask(clip.masks[index], (192, 128))
            mask = read_mask(out / clip.name / f"{index:05d}.png", (192, 128))
            one, other = (mask == found.number) & (true != 255), true == found.number
            regions.append(region_similarity(one, other))
            contours.append(contour_accuracy(one, other))
        assert found.regions == pytest.approx(np.mean(regions))
        assert found.contours == pytest.approx(np.mean(contours))
        assert found.regions > 0.7
    assert sorted(path.name for path in (out / "one").iterdir()) == [f"{index:05d}.png" for index in range(1, FRAMES)]


def test_what_is_not_measured(blind: Model, davis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found in undecided pixels, and in the last frame, is neither right nor wrong."""
    (clip,) = (clip for clip in read_clips(davis) if clip.name == "one")

    def planted(_: Model, frames: Iterator[Image.Image], first: Labels, options: PropagationOptions) -> Iterator[Labels]:
        for index, _ in enumerate(frames):
            labels = np.zeros((128, 192), dtype=np.uint8)
            if index == 2:
                labels[40:80, 64 + 8 * index : 104 + 8 * index] = 3  # the object itself
                labels[:8] = 3
            if index:
                yield labels

    monkeypatch.setattr(module, "carry_labels", planted)
    assert evaluate_tracking(blind, [clip], device="cpu").objects == (TrackedObject("one", 3, 1.0, 1.0, 1),)


def test_the_report() -> None:
    report = TrackingReport((TrackedObject("a", 1, 0.8, 0.4, 9), TrackedObject("a", 2, 0.6, 0.2, 9), TrackedObject("b", 1, 0.1, 0.9, 5)))
    assert (report.regions, report.contours, report.both) == pytest.approx((50, 50, 50))
    assert [row[:2] for row in report.table.rows] == [("a", 2), ("b", 1), ("all", 3)]
    assert report.table.rows[0][2:] == pytest.approx((50, 70, 30))
    assert report.table.rows[1][2:] == pytest.approx((50, 10, 90))


def test_clips_that_cannot_be_measured_are_refused(blind: Model, davis: Path) -> None:
    both, one = read_clips(davis)
    one.masks[2].unlink()
    with pytest.raises(UsageError, match="Clip one has no mask between its first and last frame"):
        evaluate_tracking(blind, read_clips(davis), device="cpu")
    with pytest.raises(StoreError, match=r"00001\.png cannot be written"):
        evaluate_tracking(blind, [both], one.frames[0], size=64, device="cpu")
    Image.fromarray(np.zeros((128, 192), dtype=np.uint8)).save(both.masks[0])
    with pytest.raises(UsageError, match=r"00000\.png has no object: it holds 0, the background, and at most 255"):
        evaluate_tracking(blind, [both], device="cpu")
    both.frames[0].write_bytes(b"")
    with pytest.raises(ImageError, match=r"00000\.jpg: the file is empty"):
        evaluate_tracking(blind, [both], device="cpu")
