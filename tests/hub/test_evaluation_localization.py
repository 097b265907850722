"""Boxes lie round the largest strong piece of a map, and images with a right one are counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ibot_hub.attention import attention_maps
from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation import localization as module
from ibot_hub.evaluation.boxes import Box, overlap
from ibot_hub.evaluation.localization import LocalizationReport, box_of, evaluate_localization
from ibot_hub.fit import crop_fit, whole_fit
from ibot_hub.images import ImageTransform
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.swin import Swin

FIT = whole_fit(200, 100, (80, 40), 8)  # 10 x 5 patches, each 20 x 20 pixels of the image


def test_the_largest_piece_has_the_box() -> None:
    """Three strong patches in an L, and two stronger ones elsewhere, which touch the others by a corner only."""
    weights = np.full((5, 10), 0.001)
    weights[1, 2] = weights[2, 2] = weights[2, 3] = 1
    weights[3, 4] = weights[3, 5] = 3
    assert box_of(weights, FIT, 0.9) == Box(40, 20, 80, 60)
    assert box_of(weights, FIT, 0.6) == Box(80, 60, 120, 80)  # the two alone hold it
    assert box_of(weights, FIT, 1.0) == Box(0, 0, 200, 100)
    assert box_of(-weights, FIT, 0.6) == Box(0, 0, 200, 100)  # nothing is above 0, so all are as strong


def test_of_equal_pieces_the_first_is_taken_and_boxes_end_with_the_image() -> None:
    weights = np.zeros((5, 10))
    weights[0, 0] = weights[4, 9] = 1
    assert box_of(weights, FIT, 0.6) == Box(0, 0, 20, 20)
    weights[4, 8] = 1
    assert box_of(weights, FIT, 1.0 - 1e-9) == Box(160, 80, 200, 100)
    fit = crop_fit(30, 60, 40, 40, 8)  # the middle of a tall image
    weights = np.zeros((5, 5))
    weights[2, 2] = 1
    box = box_of(weights, fit, 0.6)
    assert ((box.left + box.right) / 2, (box.top + box.bottom) / 2) == pytest.approx((15, 30))


@pytest.fixture
def discs(tmp_path: Path) -> dict[str, tuple[Box, ...]]:
    """Three pictures of a bright disc on a dark ground, and the boxes of the discs; of the last one a wrong box too."""
    given = {}
    for number, (x, y, radius) in enumerate([(40, 40, 30), (120, 60, 36), (80, 50, 28)]):
        image = Image.effect_noise((160, 110), 12).convert("RGB").point(lambda value: value // 3)
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), (240, 200, 60))
        image.save(tmp_path / f"{number}.png")
        given[f"{number}.png"] = (Box(x - radius, y - radius, x + radius, y + radius),)
    given["2.png"] = (Box(0, 0, 9, 9), *given["2.png"])
    return given


def test_boxes_are_those_of_the_maps(discs: dict[str, tuple[Box, ...]], tmp_path: Path) -> None:
    model = load("tiny", head=False)
    report = evaluate_localization(model, tmp_path, discs, size=112, device="cpu")
    transform = replace(model.transform, size=112, resize="keep")
    assert report.maps == ("mean", "head 0", "head 1", "head 2")
    assert report.paths == ("0.png", "1.png", "2.png")
    for place, path in enumerate(report.paths):
        maps = attention_maps(model, tmp_path / path, transform=transform)
        weights = maps.weights.double().numpy()
        assert report.found[place][2] == box_of(weights[1], maps.fit, 0.6)
        assert report.found[place][0] == box_of(weights.mean(axis=0), maps.fit, 0.6)
        assert report.overlaps[1, place] == max(overlap(report.found[place][1], box) for box in discs[path])
    assert report.table.rows[0][:3] == ("mean", 3, report.corloc[0])


def test_a_map_of_the_object_itself_is_right(discs: dict[str, tuple[Box, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a perfect head attends to, and one that looks at the ground."""
    true = module.attention_maps

    def perfect(model: Model, image: Image.Image, layer: int, *, transform: ImageTransform) -> module.AttentionMaps:
        maps = true(model, image, layer, transform=transform)
        bright = np.asarray(image.resize((maps.fit.columns, maps.fit.rows)).convert("L")) > 110
        weights = torch.from_numpy(np.stack([bright, ~bright])).float()
        return replace(maps, weights=weights / weights.sum(dim=(1, 2), keepdim=True))

    monkeypatch.setattr(module, "attention_maps", perfect)
    report = evaluate_localization(load("tiny", head=False), tmp_path, discs, size=112, mass=1 - 1e-9, device="cpu")
    assert report.corloc[1:] == (100, 0)
    assert (report.maps[report.best], report.table.rows[1][-1]) == ("head 0", "best")
    strict = evaluate_localization(load("tiny", head=False), tmp_path, discs, size=112, mass=1 - 1e-9, overlap=1.0, device="cpu")
    assert strict.corloc[1] == 0


def test_the_share_itself_is_enough() -> None:
    overlaps = np.array([[0.5, 0.49, 0.9]])
    report = LocalizationReport(("cosine",), "cosines", overlaps, ((),) * 3, ("a", "b", "c"), (), 0.5)
    assert report.corloc == pytest.approx((200 / 3,))
    assert report.table.rows[0][-1] == ""  # where there is but one there is no best


def test_of_equally_right_maps_the_one_that_overlaps_more_is_best() -> None:
    overlaps = np.array([[0.6, 0.1], [0.9, 0.2], [0.7, 0.2]])
    report = LocalizationReport(("mean", "head 0", "head 1"), "attention", overlaps, ((),) * 2, ("a", "b"), (), 0.5)
    assert (report.corloc, report.best) == ((50, 50, 50), 1)


def test_a_swin_has_one_map(discs: dict[str, tuple[Box, ...]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Swin(patch_size=4, window_size=7, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)).eval()
    model = Model(network, None, None, ImageTransform(224, patch=network.patch), load("tiny", head=False).card)
    report = evaluate_localization(model, tmp_path, discs, size=128, device="cpu")
    assert report.maps == ("cosine",)
    assert "a Swin has no [CLS]" in report.table.title


def test_images_that_are_missing_or_broken(discs: dict[str, tuple[Box, ...]], tmp_path: Path) -> None:
    model = load("tiny", head=False)
    with pytest.raises(UsageError, match=r"no .*gone\.png, which has boxes; 1 of 4 images are missing"):
        evaluate_localization(model, tmp_path, discs | {"gone.png": discs["0.png"]})
    (tmp_path / "1.png").write_bytes(b"")
    report = evaluate_localization(model, tmp_path, discs, size=64, device="cpu")
    assert (report.paths, report.failed) == (("0.png", "2.png"), (("1.png", "the file is empty"),))
    with pytest.raises(SourceError, match=r"None of the 1 images can be measured; the first is 1\.png: the file is empty"):
        evaluate_localization(model, tmp_path, {"1.png": discs["1.png"]}, device="cpu")
    outside = discs | {"0.png": (Box(0, 0, 9, 111.5),), "1.png": discs["1.png"]}
    report = evaluate_localization(model, tmp_path, outside, size=64, device="cpu")
    assert report.failed[0] == ("0.png", "its box from (0, 0) to (9, 111.5) reaches out of its 160 x 110 pixels")
    assert report.paths == ("2.png",)
    with pytest.raises(SourceError, match="is no folder; give the one that the paths of the boxes begin in"):
        evaluate_localization(model, tmp_path / "2.png", discs, device="cpu")
    with pytest.raises(UsageError, match="Layer 9 does not exist"):
        evaluate_localization(model, tmp_path, discs, layer=9, device="cpu")
