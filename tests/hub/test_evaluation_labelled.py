"""Features get the classes of the folders their images lie in, from whatever source, and two sides are only put together if they fit."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.labelled import NAMED, Labelled, labelled, pair, told_left_out
from ibot_hub.features.extraction import extract
from ibot_hub.features.shards import Rows
from ibot_hub.features.store import save_manifest, write_shard
from ibot_hub.features.table import open_features
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import EvaluationOptions

SMALL = EvaluationOptions(size=32, device="cpu", workers=1)
CLASSES = ("bird", "cat", "dog")


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth", head=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of two images each, one of them a level deeper, as in Tiny ImageNet."""
    folder = tmp_path_factory.mktemp("data") / "train"
    return class_folders(folder, CLASSES, 2)


@pytest.fixture(scope="module")
def seen(model: Model, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    return labelled(images, model, tmp_path_factory.mktemp("cache"), SMALL)


def class_folders(folder: Path, classes: tuple[str, ...], count: int) -> Path:
    for number, name in enumerate(classes):
        place = folder / name / "images" if number == 1 else folder / name
        place.mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng([number, index]).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(place / f"{name}_{index}.png")
    return folder


def made(features: torch.Tensor, paths: list[str], folder: Path, like: Labelled, **changes: Any) -> Path:
    """A folder of features, as `extract` writes it."""
    manifest = replace(like.manifest, **{"images": len(paths), "source": str(folder / "source"), **changes})
    save_manifest(folder, manifest)
    rows = Rows(paths, [40] * len(paths), [40] * len(paths), {"feature": features.numpy()}, ())
    write_shard(folder, 0, "parquet", rows, manifest.columns)
    return folder


def test_images_of_class_folders(seen: Labelled, model: Model, images: Path) -> None:
    assert seen.classes == CLASSES
    assert seen.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert seen.paths[2] == "cat/images/cat_0.png"
    assert seen.failed == 0
    transform = replace(model.transform, size=32)
    expected = torch.cat([model(images / path, transform=transform).cls for path in seen.paths])
    torch.testing.assert_close(seen.features, expected, atol=1e-5, rtol=1e-4)


def test_what_was_extracted_gives_the_same(seen: Labelled, model: Model, images: Path, tmp_path: Path) -> None:
    extract(model, images, tmp_path / "features", size=32, dtype="float32", device="cpu", workers=1, shard_size=4, format="npy")
    again = labelled(tmp_path / "features", None, tmp_path / "cache")
    torch.testing.assert_close(again.features, seen.features, atol=1e-5, rtol=1e-4)  # other batches: another order of sums
    assert (again.classes, again.paths) == (seen.classes, seen.paths)
    assert torch.equal(again.labels, seen.labels)
    assert not (tmp_path / "cache").exists()


def test_features_of_images_are_kept_and_never_mixed(model: Model, images: Path, golden: Path, tmp_path: Path) -> None:
    """The same folder for the same question; another for another one, whatever it is that differs."""
    first = labelled(images, model, tmp_path, SMALL)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    assert len(kept) == 1
    assert torch.equal(labelled(images, model, tmp_path, replace(SMALL, workers=2)).features, first.features)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")} == kept
    assert labelled(images, model, tmp_path, SMALL, layers=2).features.shape == (6, 256)
    assert labelled(images, model, tmp_path, SMALL, pool="cls+mean").features.shape == (6, 256)
    assert not torch.equal(labelled(images, model, tmp_path, replace(SMALL, size=48)).features, first.features)
    other = load(golden / "vit_micro_checkpoint.pth", network="student", head=False)
    other.card = model.card  # a run that went on has other weights under the same name
    assert not torch.equal(labelled(images, other, tmp_path, SMALL).features, first.features)
    assert len(list(tmp_path.iterdir())) == 5


def test_lists_and_shards_have_classes_too(seen: Labelled, model: Model, images: Path, tmp_path: Path) -> None:
    listed = tmp_path / "images.txt"
    flat = [path for path in sorted(images.rglob("*.png")) if path.parent.name != "images"]
    listed.write_text("".join(f"{path}\n" for path in flat))
    assert labelled(listed, model, tmp_path / "cache", SMALL).classes == ("bird", "dog")
    listed.write_text("".join(f"{path}\n" for path in flat[2:]))
    assert labelled(listed, model, tmp_path / "cache", SMALL).classes == ("dog",)  # a list that was edited names other images
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for path in flat:
            tar.add(path, f"./train/{path.parent.name}/{path.name}")
    of_shard = labelled(tmp_path / "images.tar", model, tmp_path / "cache", SMALL)
    assert of_shard.classes == ("bird", "dog")
    torch.testing.assert_close(of_shard.features, seen.features[[0, 1, 4, 5]], atol=1e-5, rtol=1e-4)


def test_features_are_of_the_images_as_they_are_now(model: Model, tmp_path: Path) -> None:
    """An image that comes, goes, or is replaced under its name makes the features of its side anew."""
    folder = class_folders(tmp_path / "train", CLASSES, 2)

    def seen() -> Labelled:
        return labelled(folder, model, tmp_path / "cache", SMALL)

    first = seen()
    added = folder / "bird" / "bird_2.png"
    Image.new("RGB", (40, 40), "red").save(added)
    assert seen().paths == ("bird/bird_0.png", "bird/bird_1.png", "bird/bird_2.png", *first.paths[2:])
    Image.new("RGB", (40, 40), "blue").rotate(9, fillcolor="white").save(added)
    replaced = seen()
    torch.testing.assert_close(replaced.features[2], model(added, transform=replace(model.transform, size=32)).cls[0], atol=1e-5, rtol=1e-4)
    shutil.rmtree(folder / "bird")
    assert seen().classes == ("cat", "dog")


def test_broken_images_are_left_out_and_counted(model: Model, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "train", CLASSES, 2)
    (folder / "cat" / "images" / "cat_0.png").write_bytes(b"no image")
    (folder / "dog" / "dog_0.png").write_bytes(b"")
    found = labelled(folder, model, tmp_path / "cache", SMALL)
    assert found.failed == 2
    assert found.labels.tolist() == [0, 0, 1, 2]
    assert [path.rpartition("/")[2] for path in found.paths] == ["bird_0.png", "bird_1.png", "cat_1.png", "dog_1.png"]
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(SourceError, match=f"None of the 6 images of {folder} could be read"):
        labelled(folder, model, tmp_path / "other", SMALL)


def test_what_is_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    told_left_out("photos", [])
    assert capsys.readouterr().err == ""
    told_left_out("photos", [f"{number}.jpg" for number in range(NAMED + 2)])
    named = "0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more"
    assert capsys.readouterr().err == f"7 images of photos could not be read and are left out: {named}\n"


def test_features_that_are_not_finite_are_named(seen: Labelled, tmp_path: Path) -> None:
    features = torch.ones(3, 128)
    features[1, 7] = torch.nan
    folder = made(features, ["a/1.jpg", "a/2.jpg", "b/3.jpg"], tmp_path / "features", seen)
    with pytest.raises(UsageError, match=r"The feature of a/2\.jpg in .*features is not finite"):
        labelled(folder, None, tmp_path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"layers": 4},
            r"holds features of layers 1, but layers 4 is needed: `ibot .*source --model .* --layers 4 --pool cls --size 32 --resize crop`",
        ),
        ({"layers": 4, "pool": "cls+mean"}, r"holds features of layers 1, pool cls, but layers 4, pool cls\+mean is needed"),
        ({"options": EvaluationOptions(size=64)}, "holds features of size 32, but size 64 is needed"),
    ],
)
def test_features_of_another_kind_than_asked(seen: Labelled, tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    folder = made(torch.ones(1, 128), ["a/1.jpg"], tmp_path / "features", seen)
    with pytest.raises(UsageError, match=message):
        labelled(folder, None, tmp_path, **asked)


def test_images_need_a_model(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds images, not features; say which model is to see them"):
        labelled(images, None, tmp_path)


def test_patches_alone_are_no_vectors(seen: Labelled, tmp_path: Path, model: Model, images: Path) -> None:
    extract(model, images, tmp_path / "features", size=32, tokens="patches", limit=2, device="cpu", workers=1)
    with pytest.raises(Exception, match="holds no feature, only patches"):
        labelled(tmp_path / "features", None, tmp_path)
    assert open_features(tmp_path / "features").patches.shape == (2, 2, 2, 128)


def test_two_sides_have_the_classes_of_the_first(seen: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val = labelled(made(torch.ones(3, 128), ["dog/1.jpg", "bird/2.jpg", "dog/3.jpg"], tmp_path / "val", seen), None, tmp_path)
    assert (val.classes, val.labels.tolist()) == (("bird", "dog"), [1, 0, 1])
    train, val = pair(seen, val)
    assert train is seen
    assert (val.classes, val.labels.tolist()) == (CLASSES, [2, 0, 2])
    assert capsys.readouterr().err == f"1 of 3 classes, such as 'cat', have no image in {tmp_path}/val/source\n"


def test_the_same_images_on_both_sides_are_told(seen: Labelled, capsys: pytest.CaptureFixture[str]) -> None:
    pair(seen, seen)
    assert capsys.readouterr().err == f"both sides are the same images, of {seen.manifest.source}: nothing new is asked\n"
    pair(seen, replace(seen, manifest=replace(seen.manifest, listing="other")))  # such as two lists that came through a pipe
    assert capsys.readouterr().err == ""


def test_a_side_with_tokens_besides_fits(seen: Labelled, model: Model, images: Path, tmp_path: Path) -> None:
    extract(model, images, tmp_path, tokens="both", size=32, dtype="float32", device="cpu", workers=1)
    both = labelled(tmp_path, None, tmp_path)
    for train, val in (pair(seen, both), pair(both, seen)):
        assert torch.equal(train.labels, val.labels)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["dog/1.jpg", "cow/2.jpg"], r"Class 'cow' has images in .*val/source, but none in .*train\."),
        (["cow/1.jpg", "eel/2.jpg", "eft/2.jpg"], "Class 'cow' and 2 more have images in "),
    ],
)
def test_a_class_that_was_never_seen(seen: Labelled, tmp_path: Path, paths: list[str], message: str) -> None:
    val = labelled(made(torch.ones(len(paths), 128), paths, tmp_path / "val", seen), None, tmp_path)
    with pytest.raises(UsageError, match=message):
        pair(seen, val)


def test_one_class_tells_nothing(seen: Labelled, tmp_path: Path) -> None:
    only = labelled(made(torch.ones(2, 128), ["train/dog/1.jpg", "train/cat/2.jpg"], tmp_path / "x", seen), None, tmp_path)
    with pytest.raises(UsageError, match="are in one class folder, 'train'; give the folder that holds the class folders"):
        pair(only, only)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weights": "ef" * 32, "model": "other", "arch": "ViT-S/16", "network": "student"},
            r"Features of two models cannot be compared: .*train by .*vit_micro_checkpoint\.pth \(ViT-128x2/16, weights \w{8}\) and "
            r".*val/source by other \(ViT-S/16, weights efefefef\); extract both with one",
        ),
        (
            {"dtype": "bfloat16", "layers": 2},
            r"The features of .*train and .*val/source were made differently: layers 1 and 2; dtype float32 and bfloat16; extract both",
        ),
        ({"preprocessing": {"size": 64}}, "size 32 and 64"),
    ],
)
def test_sides_made_in_two_ways(seen: Labelled, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if "preprocessing" in changes:
        changes = {"preprocessing": {**seen.manifest.preprocessing, **changes["preprocessing"]}}
    val = replace(seen, manifest=replace(seen.manifest, source=str(tmp_path / "val" / "source"), **changes))
    with pytest.raises(UsageError, match=message):
        pair(seen, val)
