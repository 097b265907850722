"""Landmarks are found as the revisited benchmark counts, from images seen as the official script sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ibot_hub.errors import ImageError, UsageError
from ibot_hub.evaluation.groundtruth import GroundTruth, Query
from ibot_hub.evaluation.revisited import evaluate_revisited, measure_revisited, multi_scale, shrunk
from ibot_hub.images import decode
from ibot_hub.loading import load

NAMES = ("graf1", "graf3", "coffee", "clock", "cat_chelsea")
TRUTH = GroundTruth(
    NAMES,
    (Query("graf1", (100.0, 50.0, 500.0, 450.0), (0,), (1,), ()), Query("cat_chelsea", None, (4,), (), (3,))),
)


def test_settings_counted_by_hand() -> None:
    """The answers are 3, 0, 1, 2, 4, of which 1 is junk: easy sees 3 0 4, medium 3 0 2 4, hard 3 2 4."""
    angles = torch.tensor([0.2, 0.3, 0.4, 0.1, 0.5])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    truth = GroundTruth(tuple("abcde"), (Query("q", None, (0,), (2,), (1,)), Query("r", None, (3,), (), ())))
    report = measure_revisited(gallery, torch.tensor([[1.0, 0], [1, 0]]), truth)
    ap = {name: found.ap.tolist() for name, found in report.settings.items()}
    assert ap["easy"] == pytest.approx([1 / 4, 1])
    assert ap["medium"] == pytest.approx([(1 / 4 + (1 / 2 + 2 / 3) / 2) / 2, 1])
    assert ap["hard"][0] == pytest.approx(1 / 4)
    assert np.isnan(ap["hard"][1])
    assert report.settings["medium"].at[0].tolist() == pytest.approx([0, 2 / 3, 2 / 3])
    assert [row[:3] for row in report.table.rows] == [("easy", 2, 5), ("medium", 2, 5), ("hard", 1, 5)]
    assert report.table.rows[2][3:] == pytest.approx((25, 0, 50, 50))


def test_vectors_and_ground_truth_must_agree() -> None:
    with pytest.raises(UsageError, match="has 5 images and 2 queries; these are 4 and 2 vectors"):
        measure_revisited(torch.ones(4, 2), torch.ones(2, 2), TRUTH)


def test_images_are_shrunk_but_never_enlarged(photos: Path) -> None:
    image = decode(photos / "coffee.jpg")
    assert max(image.size) > 128
    small = shrunk(image, 128)
    assert max(small.shape[1:]) == 128
    assert small.shape[2] / small.shape[1] == pytest.approx(image.width / image.height, rel=0.02)
    assert small.float().mean() == pytest.approx(np.asarray(image).mean(), abs=2)
    assert shrunk(image, 10_000).numpy().transpose(1, 2, 0).tobytes() == image.tobytes()


def test_the_vector_is_the_mean_of_three_scales() -> None:
    model = load("tiny", head=False)
    image = torch.randn(3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sizes = ((96, 64), (67, 45), (48, 32))  # 67.9 and 45.3 are cut
        halved = F.interpolate(image[None], scale_factor=0.5, mode="bilinear")
        assert [F.interpolate(image[None], scale_factor=2**-0.5, mode="bilinear").shape[2:]] == [torch.Size(sizes[1])]
        scales = [image[None], F.interpolate(image[None], scale_factor=2**-0.5, mode="bilinear"), halved]
        expected = sum(model(tensor).cls[0] for tensor in scales)
        alone = F.normalize(model(image[None]).cls[0], dim=0)
    found = multi_scale(model, image)
    assert float(found @ expected / expected.norm()) == pytest.approx(1, abs=1e-6)
    assert float(found.norm()) == pytest.approx(1, abs=1e-6)
    assert float(found @ alone) < 0.9999


def test_a_folder_of_photographs(photos: Path, tmp_path: Path) -> None:
    """As by hand, the box of the first query cut out before it is shrunk."""
    model = load("tiny", head=False)
    report = evaluate_revisited(model, TRUTH, photos, tmp_path, size=96, device="cpu")
    images = [decode(photos / f"{name}.jpg") for name in NAMES]

    def seen(image: Image.Image) -> torch.Tensor:
        return multi_scale(model, model.transform.normalise(shrunk(image, 96)))

    gallery = torch.stack([seen(image) for image in images])
    queries = torch.stack([seen(images[0].crop((100, 50, 500, 450))), seen(images[4])])
    expected = measure_revisited(gallery, queries, TRUTH)
    assert report.table == expected.table
    assert report.settings["easy"].ap[1] == 1  # itself
    assert evaluate_revisited(model, TRUTH, photos, tmp_path, size=96, device="cpu").table == expected.table  # from the cache


def test_images_that_are_not_there_or_too_small_are_named(photos: Path, tmp_path: Path) -> None:
    model = load("tiny", head=False)
    with pytest.raises(UsageError, match=r"graf1\.jpg, which the ground truth names; 5 of 5 images are missing"):
        evaluate_revisited(model, TRUTH, tmp_path, tmp_path / "cache")
    truth = GroundTruth(("coffee",), (Query("coffee", (0.0, 0.0, 10.0, 10.0), (0,), (), ()),))
    with pytest.raises(ImageError, match=r"coffee\.jpg: Images of 7 x 7 pixels hold no patch of 8"):
        evaluate_revisited(model, truth, photos, tmp_path / "cache", size=96, device="cpu")
