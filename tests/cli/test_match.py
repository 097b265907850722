"""`ibot match`: what it draws, tells and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ibot_hub.correspondence import match
from ibot_hub.draw.matches import draw_matches
from ibot_hub.evaluation.matching import match_views
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.options import MatchOptions

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def words(checkpoint: str) -> tuple[str, ...]:
    return ("--model", checkpoint, "--device", "cpu")


def test_two_images(ibot: Ibot, photos: Path, words: tuple[str, ...], checkpoint: str, tmp_path: Path) -> None:
    pair = photos / "graf1.jpg", photos / "coffee.jpg"
    code, stdout, stderr = ibot("match", *pair, *words, "-o", tmp_path / "m.png")
    assert (code, stdout) == (0, "")
    assert f"12 matches, strongest attention first -> {tmp_path / 'm.png'}" in stderr
    model = load(checkpoint)
    expected = draw_matches(match(model, *pair), *map(decode, pair))
    assert Image.open(tmp_path / "m.png").tobytes() == expected.tobytes()


def test_json_has_the_points(ibot: Ibot, photos: Path, words: tuple[str, ...], checkpoint: str, tmp_path: Path) -> None:
    pair = photos / "graf1.jpg", photos / "graf3.jpg"
    options = ("--count", "3", "--mutual", "--similarity", "cosine", "--rank", "similarity", "--size", "112", "--resize", "crop", "--json")
    code, stdout, _ = ibot("match", *pair, *words, *options, "-o", tmp_path / "m.png")
    answer = json.loads(stdout)
    assert (code, answer["rank"], answer["model"]) == (0, "similarity", checkpoint)
    model = load(checkpoint)
    model.transform = model.transform.__class__(size=112, resize="crop", patch=16)
    found = match(model, *pair, 3, mutual=True, similarity="cosine", rank="similarity", transform=model.transform)
    assert len(answer["matches"]) == len(found.scores)
    assert [row["first"] for row in answer["matches"]] == found.first.tolist()
    assert [row["second"] for row in answer["matches"]] == found.second.tolist()
    assert [tuple(row["second_patch"]) for row in answer["matches"]] == [tuple(patch) for patch in found.second_patches.tolist()]


def test_two_views_of_one(ibot: Ibot, photos: Path, words: tuple[str, ...], checkpoint: str, tmp_path: Path) -> None:
    code, stdout, _ = ibot("match", "--views", photos / "graf1.jpg", "--seed", "4", *words, "--json", "-o", tmp_path / "v.png")
    answer = json.loads(stdout)
    expected = match_views(load(checkpoint), photos / "graf1.jpg", 4, MatchOptions())
    assert code == 0
    assert (answer["share"], answer["patches"]) == (expected.overlap.share, expected.overlap.patches)
    assert [row["right"] for row in answer["matches"]] == expected.right.tolist()
    assert [tuple(view["box"]) for view in answer["views"]] == [expected.views.first.box, expected.views.second.box]
    views = expected.views
    picture = draw_matches(expected.matches, views.first.image, views.second.image, right=expected.right.tolist())
    assert Image.open(tmp_path / "v.png").tobytes() == picture.tobytes()
    code, _, stderr = ibot("match", "--views", photos / "graf1.jpg", "--seed", "4", *words, "-o", tmp_path / "v.png")
    assert f"{expected.right.sum()} of them are right" in stderr
    assert f"of all {expected.overlap.patches} patches of the overlap {expected.overlap.share:.1%}" in stderr


def test_views_that_do_not_overlap(ibot: Ibot, photos: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    code, _, stderr = ibot("match", "--views", photos / "graf1.jpg", "--size", "16", *words, "-o", tmp_path / "v.png")
    assert (code, "the two views do not overlap" in stderr) == (0, True)
    assert "0 matches" in stderr


def test_a_swin_is_ranked_by_similarity_and_it_is_said(ibot: Ibot, golden: Path, photos: Path, tmp_path: Path) -> None:
    swin = golden / "swin_micro_w7_checkpoint.pth"
    code, _, stderr = ibot("match", photos / "graf1.jpg", photos / "graf3.jpg", "--model", swin, "-o", tmp_path / "m.png")
    assert code == 0
    assert "has no attention of [CLS]: ranked by similarity" in stderr


def test_mistakes_are_told_before_a_model_is_fetched(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    """The model's name is wrong too, but that would be seen only by looking for it."""
    one = photos / "graf1.jpg"
    for wrong, code, said in (
        ((one,), 2, "takes two images, FIRST and SECOND, or --views IMAGE"),
        ((), 2, "takes two images"),
        (("--views", one, one), 2, "leave FIRST and SECOND out"),
        ((one, one, "--count", "0"), 2, "greater than or equal to 1"),
        ((one, tmp_path / "missing.jpg"), 1, "missing.jpg: no such file"),
        ((one, photos / "../CREDITS.tsv"), 1, "CREDITS.tsv: no image"),
        ((one, one, "-o", tmp_path / "m.txt"), 2, "m.txt names no format of pictures"),
    ):
        found, stdout, stderr = ibot("match", *wrong, "--model", "vit_nope")
        assert (found, stdout) == (code, "")
        assert said in " ".join(stderr.split())


def test_a_place_that_cannot_be_written(ibot: Ibot, photos: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    code, _, stderr = ibot("match", photos / "graf1.jpg", photos / "graf3.jpg", *words, "-o", tmp_path / "no" / "m.png")
    assert code == 2
    assert f"There is no folder {tmp_path / 'no'} to write m.png in; make it first." in stderr
