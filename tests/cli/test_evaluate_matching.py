"""`ibot eval`: reports in words and as JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ibot_hub.correspondence import partner_map
from ibot_hub.evaluation.homography import measure_homography, read_homography
from ibot_hub.evaluation.matching import evaluate_views
from ibot_hub.loading import load

Ibot = Callable[..., tuple[int, str, str]]


def test_correspondence_of_a_folder(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
    for name in ("coffee.jpg", "graf1.jpg"):
        (tmp_path / name).write_bytes((photos / name).read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"")
    expected = evaluate_views(load(checkpoint), tmp_path, seed=2, size=112, radius=1)
    words = ("eval", "correspondence", tmp_path, "--model", checkpoint, "--seed", "2", "--size", "112", "--radius", "1", "--device", "cpu")
    code, stdout, stderr = ibot(*words)
    assert code == 0
    assert "teacher network" in stderr
    assert "could not be read: broken.jpg: the file is empty" in stderr
    assert f"{expected.share:.2%} of partners are right, mean over 2 images ({expected.patches} patches" in stdout
    assert "not measured: 0 images whose views do not overlap, 1 that could not be read" in stdout
    answer = json.loads(ibot(*words, "--json")[1])
    assert (answer["share"], answer["patches"], answer["seed"]) == (expected.share, expected.patches, 2)
    assert answer["failed"] == [["broken.jpg", "the file is empty"]]


def test_all_is_measured_and_nothing_is_said_of_the_rest(ibot: Ibot, photos: Path, checkpoint: str) -> None:
    _, stdout, _ = ibot("eval", "correspondence", photos / "coffee.jpg", "--model", checkpoint)
    assert "mean over 1 images" in stdout
    assert "not measured" not in stdout


def test_a_folder_without_a_measurable_image_fails(ibot: Ibot, checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"")
    code, _, stderr = ibot("eval", "correspondence", tmp_path, "--model", checkpoint)
    assert (code, "1 are broken, the first of them broken.jpg: the file is empty" in stderr) == (1, True)


@pytest.mark.parametrize("options", [(), ("--size", "112", "--resize", "squash", "--similarity", "cosine")])
def test_pair(ibot: Ibot, photos: Path, checkpoint: str, options: tuple[str, ...]) -> None:
    pair, wall = (photos / "graf1.jpg", photos / "graf3.jpg"), photos.parent / "graf1_to_graf3_homography.txt"
    model = load(checkpoint)
    transform = type(model.transform)(112 if options else 224, "squash" if options else "keep", 16)
    partners = partner_map(model, *pair, similarity="cosine" if options else "dot", transform=transform)
    expected = measure_homography(partners, read_homography(wall))
    words = ("eval", "pair", *pair, "--homography", wall, "--model", checkpoint, *options)
    code, stdout, _ = ibot(*words)
    assert code == 0
    assert stdout.startswith(f"{expected.patches} patches of ")
    assert f"{expected.same:.1%} are the true patch, {expected.within_one:.1%} that or a neighbour of it" in stdout
    assert f"{expected.pck[0.1]:.1%} are within 10% of the longer side (PCK)" in stdout
    answer = json.loads(ibot(*words, "--json")[1])
    assert (answer["same"], answer["pck"]["0.05"], answer["median"]) == (expected.same, expected.pck[0.05], expected.median)


def test_mistakes_are_told_before_a_model_is_fetched(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    """The model's name is wrong too, but that would be seen only by looking for it."""
    one = photos / "graf1.jpg"
    wall = photos.parent / "graf1_to_graf3_homography.txt"
    for wrong, said in (
        (("correspondence", tmp_path / "missing"), "There is no"),
        (("pair", one, one, "--homography", one), "is no homography"),
        (("pair", one, tmp_path / "missing.jpg", "--homography", wall), "missing.jpg: no such file"),
        (("pair", one, one), "Missing option '--homography'"),
    ):
        code, _, stderr = ibot("eval", *wrong, "--model", "vit_nope")
        assert code in (1, 2)
        assert said in stderr
