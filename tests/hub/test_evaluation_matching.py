"""The share of right partners across two views, against a reference patch by patch and against known answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.correspondence import PartnerMap, partner_map
from ibot_hub.errors import SourceError
from ibot_hub.evaluation.matching import Overlap, evaluate_views, match_views, measure_overlap
from ibot_hub.fit import whole_fit
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import MatchOptions, ViewsOptions
from ibot_hub.two_views import View, Views, two_views

SIDE, GRID = 224, 14  # the official script's: 14 x 14 patches of 16 pixels
FIT = whole_fit(SIDE, SIDE, (SIDE, SIDE), 16)
WHITE = Image.new("RGB", (SIDE, SIDE), "white")


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


def made_up(seed: int) -> PartnerMap:
    partners = np.random.default_rng(seed).integers(0, GRID, (GRID, GRID, 2))
    return PartnerMap(partners, np.zeros((GRID, GRID), np.float32), np.zeros((GRID, GRID), bool), FIT, FIT)


def reference(partners: PartnerMap, views: Views, radius: int) -> dict[tuple[int, int], tuple[tuple[int, int], bool]]:
    """Patches of the overlap -> true partner, and whether the partner is right: all in fractions of the image, patch by patch."""

    def centres(view: View) -> dict[tuple[int, int], tuple[float, float]]:
        left, top, right, bottom = view.box
        if view.flipped:
            left, right = right, left
        answer = {}
        for row in range(GRID):
            for column in range(GRID):
                x = left + (right - left) * (column * 16 + 8) / 224
                y = top + (bottom - top) * (row * 16 + 8) / 224
                answer[row, column] = (x / views.width, y / views.height)
        return answer

    first, second = centres(views.first), centres(views.second)
    xs, ys = ([point[axis] for point in second.values()] for axis in (0, 1))
    found = {}
    for patch, (x, y) in first.items():
        if min(xs) <= x - 8 / 224 and x + 8 / 224 <= max(xs) and min(ys) <= y - 8 / 224 and y + 8 / 224 <= max(ys):
            nearest = min(second, key=lambda other: ((second[other][0] - x) ** 2 + (second[other][1] - y) ** 2, other))
            row, column = partners.partners[patch]
            found[patch] = (nearest, abs(row - nearest[0]) <= radius and abs(column - nearest[1]) <= radius)
    return found


@pytest.mark.parametrize("radius", [0, 2])
def test_equals_the_reference(radius: int) -> None:
    image = Image.new("RGB", (317, 211))
    flips = set()
    for seed in range(12):
        views = two_views(image, seed, SIDE)
        flips.add((views.first.flipped, views.second.flipped))
        partners = made_up(seed)
        truth = reference(partners, views, radius)
        for index, (patch, (place, _)) in enumerate(truth.items()):
            if index % 3 == 0:  # so that some are right
                partners.partners[patch] = place
        truth = reference(partners, views, radius)
        overlap = measure_overlap(partners, views, radius)
        assert [tuple(patch) for patch in np.argwhere(overlap.shown).tolist()] == list(truth)
        assert overlap.patches == len(truth)
        for patch, (place, right) in truth.items():
            assert (tuple(overlap.places[patch]), overlap.right[patch]) == (place, right)
        share = np.mean([right for _, right in truth.values()]) if truth else None
        assert overlap.share == (None if share is None else pytest.approx(share))
        assert share is None or 0 < share < 1
    assert len(flips) == 4


def test_a_view_and_its_mirror_image(model: Model) -> None:
    """The whole image twice, the second time flipped: every inner patch has its place in the other half."""
    views = Views(View(WHITE, (0, 0, 500, 300), False), View(WHITE, (0, 0, 500, 300), True), 500, 300)
    rows, columns = np.mgrid[:GRID, :GRID]
    partners = PartnerMap(np.stack([rows, GRID - 1 - columns], -1), made_up(0).similarities, made_up(0).mutual, FIT, FIT)
    overlap = measure_overlap(partners, views)
    assert overlap.share == 1
    assert overlap.patches == 12 * 12  # those at the border reach over the outermost centres
    assert overlap.chance == pytest.approx(1 / GRID**2)
    partners.partners[1, 1] += (0, 1)
    assert measure_overlap(partners, views).share == pytest.approx(143 / 144)
    assert measure_overlap(partners, views, radius=1).share == 1
    assert measure_overlap(partners, views, radius=1).chance == pytest.approx(9 / GRID**2)


def test_views_apart_have_no_share() -> None:
    views = Views(View(WHITE, (0, 0, 100, 200), False), View(WHITE, (100, 0, 200, 200), False), 200, 200)
    overlap = measure_overlap(made_up(0), views)
    assert (overlap.patches, overlap.share, overlap.chance) == (0, None, None)


def test_only_the_overlap_is_ranked(model: Model, photos: Path) -> None:
    found = match_views(model, photos / "graf1.jpg", 1, MatchOptions(count=1000))
    assert found.overlap.patches == len(found.matches.scores) < GRID**2
    assert found.overlap.shown[tuple(found.matches.first_patches.T)].all()
    assert (np.diff(found.matches.scores) <= 0).all()
    assert found.right.mean() == pytest.approx(found.overlap.share)
    assert found.views.first.box == two_views(photos / "graf1.jpg", 1).first.box
    few = match_views(model, photos / "graf1.jpg", 1, MatchOptions(count=3, mutual=True, rank="similarity", size=112))
    assert few.views.first.image.size == (112, 112)
    assert len(few.matches.scores) == 3
    assert few.matches.rank == "similarity"


def test_a_folder_is_the_mean_of_its_images(model: Model, photos: Path, tmp_path: Path) -> None:
    for number in range(3):
        name = ("coffee.jpg", "graf1.jpg", "squirrel.jpg")[number]
        (tmp_path / f"{number}.jpg").write_bytes((photos / name).read_bytes())
    (tmp_path / "1a.jpg").write_bytes(b"nothing that is a picture")
    report = evaluate_views(model, tmp_path, size=64, seed=5, radius=1, similarity="cosine")
    alone = [_alone(model, tmp_path / f"{number}.jpg", index) for number, index in enumerate((0, 1, 3))]
    assert report.shares == pytest.approx([overlap.share for overlap in alone])
    assert report.share == pytest.approx(np.mean(report.shares))
    assert report.chance == pytest.approx(np.mean([overlap.chance for overlap in alone]))
    assert report.patches == sum(overlap.patches for overlap in alone)
    assert report.apart == 0
    assert report.failed == (("1a.jpg", "no image that can be read, whatever its name says"),)
    assert evaluate_views(model, tmp_path, size=64, seed=5, limit=1, radius=1, similarity="cosine").shares == report.shares[:1]
    assert evaluate_views(model, tmp_path, size=64, seed=6, radius=1, similarity="cosine").shares != report.shares


def _alone(model: Model, path: Path, index: int) -> Overlap:
    """With what `match_views` does not offer, put together by hand."""
    views = two_views(path, (5, index), 64)
    transform = replace(model.transform, size=64, resize="squash")
    return measure_overlap(partner_map(model, views.first.image, views.second.image, similarity="cosine", transform=transform), views, 1)


def test_images_whose_views_are_apart_are_counted(model: Model, tmp_path: Path) -> None:
    """At 16 pixels a view is one patch, whose surroundings never lie between the other's centres."""
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match="of 1 the views do not overlap, 0 are broken"):
        evaluate_views(model, tmp_path, size=16)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"1 are broken, the first of them a\.png: the file is empty"):
        evaluate_views(model, tmp_path, ViewsOptions(size=64))


def test_a_network_that_sees_the_pixels_beats_the_toss(photos: Path) -> None:
    report = evaluate_views(load("tiny", head=False), photos, limit=6)
    assert len(report.shares) + report.apart == 6
    assert report.share > 2 * report.chance
