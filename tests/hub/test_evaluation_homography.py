"""Distances from the truth of a known plane, on made-up planes and on the graffiti wall."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ibot_hub.correspondence import PartnerMap, partner_map
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.homography import mapped, measure_homography, read_homography
from ibot_hub.fit import Fit, whole_fit
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.vit import ViT

GRID = whole_fit(80, 80, (80, 80), 8)  # ten by ten patches of eight pixels
SHIFT = np.array([[1.0, 0, 16], [0, 1, 8], [0, 0, 1]])  # two patches to the right, one down


def with_partners(partners: np.ndarray, first: Fit = GRID, second: Fit = GRID) -> PartnerMap:
    shape = partners.shape[:2]
    return PartnerMap(partners, np.zeros(shape, np.float32), np.zeros(shape, bool), first, second)


def places() -> np.ndarray:
    return np.stack(np.mgrid[:10, :10], axis=-1)


def test_shares_of_a_known_shift() -> None:
    """9 rows and 8 columns of patches stay inside; errors of known sizes are planted among them."""
    partners = places() + np.array([1, 2])  # those outside point to patches that do not exist, and must not be looked at
    perfect = measure_homography(with_partners(partners), SHIFT)
    assert (perfect.patches, perfect.same, perfect.within_one, perfect.median) == (72, 1, 1, 0)
    assert perfect.pck == {0.05: 1, 0.1: 1}
    partners[:, 0] += (-1, 1)  # 9 patches off by one diagonally: 11.3 pixels, more than 8, a tenth of 80
    partners[:, 1] += (0, 1)  # 9 off by 8 pixels, exactly a tenth
    partners[:, 2] += (0, 3)  # 9 off by three patches
    planted = measure_homography(with_partners(partners), SHIFT)
    assert planted.same == pytest.approx(1 - 27 / 72)
    assert planted.within_one == pytest.approx(1 - 9 / 72)
    assert planted.pck == pytest.approx({0.05: 1 - 27 / 72, 0.1: 1 - 18 / 72})


def test_distances_are_in_pixels_of_the_second_image_as_given() -> None:
    """Its patches are twice as large there, and its longer side is 160."""
    second = whole_fit(160, 120, (80, 80), 8)
    to_second = np.diag([2.0, 1.5, 1])
    partners = places()
    partners[..., 1] += 1
    report = measure_homography(with_partners(partners[:, :9], whole_fit(72, 80, (72, 80), 8), second), to_second)
    assert (report.patches, report.same, report.within_one) == (90, 0, 1)
    assert report.median == pytest.approx(16)
    assert report.pck == {0.05: 0, 0.1: 1}


def test_points_beyond_the_horizon_are_nowhere() -> None:
    tilted = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 60, 0, 1]])  # x of 60 goes to infinity
    points = np.array([[10.0, 5], [30, 5], [59, 5], [61, 5], [90, 5]])
    for homography in (tilted, -tilted):  # the same map
        answer = mapped(homography, points)
        assert answer[:3] == pytest.approx(np.array([[12, 6], [60, 10], [3540, 300]]))
        assert np.isnan(answer[3:]).all()
    report = measure_homography(with_partners(places()), tilted)
    assert 0 < report.patches < 60


def test_the_file_of_the_wall_fits_its_photographs(photos: Path) -> None:
    """Colours of graf1 at its points and of graf3 where the homography leads agree, and do not one patch aside or the other way round."""
    homography = read_homography(photos.parent / "graf1_to_graf3_homography.txt")
    first, second = (np.asarray(decode(photos / name).convert("L")).astype(float) for name in ("graf1.jpg", "graf3.jpg"))
    y, x = np.mgrid[20:500:3, 20:620:3] + 0.5
    points = np.stack([x, y], axis=-1)

    def agreement(matrix: np.ndarray, aside: float = 0) -> float:
        there = np.floor(mapped(matrix, points) + np.array([aside, 0])).astype(int)
        inside = ((there >= 0) & (there < (640, 512))).all(-1)
        here = first[y[inside].astype(int), x[inside].astype(int)]
        return float(np.corrcoef(here, second[there[inside][:, 1], there[inside][:, 0]])[0, 1])

    assert agreement(homography) > 0.8
    assert agreement(homography, aside=8) < 0.5
    assert agreement(np.linalg.inv(homography)) < 0.3


def test_true_partners_on_the_wall_are_all_right(photos: Path) -> None:
    homography = read_homography(photos.parent / "graf1_to_graf3_homography.txt")
    found = partner_map(load("tiny", head=False), photos / "graf1.jpg", photos / "graf3.jpg")
    for patch in np.ndindex(found.partners.shape[:2]):
        place = found.second.patch_at(*mapped(homography, np.array([found.first.centre(*patch)]))[0])
        found.partners[patch] = place or (0, 0)
    report = measure_homography(found, homography)
    assert (report.same, report.within_one) == (1, 1)
    assert report.patches < found.mutual.size
    assert report.median < 40  # within half a patch's diagonal


def test_on_the_wall_the_embedded_model_beats_random_weights(photos: Path) -> None:
    """Mean of three seeds; benchmarks/correspondence.py has the numbers, and other floors."""
    model = load("tiny", head=False)

    def share(model: Model) -> float:
        found = partner_map(model, photos / "graf1.jpg", photos / "graf3.jpg")
        return measure_homography(found, read_homography(photos.parent / "graf1_to_graf3_homography.txt")).within_one

    trained, floor, blocks = share(model), [], model.backbone.blocks
    for seed in range(3):
        torch.manual_seed(seed)
        model.backbone = ViT(
            img_size=model.transform.size,
            patch_size=model.transform.patch,
            embed_dim=model.widths[-1],
            depth=len(blocks),
            num_heads=blocks[0].attn.num_heads,
        ).eval()
        floor.append(share(model))
    assert trained > sum(floor) / 3


def test_the_centre_of_the_first_pixel_is_zero_in_the_file(tmp_path: Path) -> None:
    """Enlarging twice takes integer centre (10, 20) to (20, 40), which is (10.5, 20.5) to (20.5, 40.5) here."""
    (tmp_path / "h.txt").write_text("# twice as large\n2, 0, 0\n0 2 0  # with a comment\n0 0 1\n")
    homography = read_homography(tmp_path / "h.txt")
    assert mapped(homography, np.array([[10.5, 20.5]])) == pytest.approx(np.array([[20.5, 40.5]]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 0 0 0 1 0 0 0", "nine finite numbers, by rows; it holds 8"),
        ("1 0 0 0 1 0 0 0 nan", "nine finite numbers"),
        ("one two three", "must hold nine numbers, by rows"),
        ("1 2 3 2 4 6 0 0 1", "its matrix has no inverse"),
    ],
)
def test_files_that_hold_no_homography_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "h.txt").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_homography(tmp_path / "h.txt")


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_homography(tmp_path / "missing.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no homography"):
        read_homography(tmp_path / "bytes")
    with pytest.raises(UsageError, match="no patch of the first image lies in the second"):
        measure_homography(with_partners(places()), np.array([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]]))
