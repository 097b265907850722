"""What an image finds in an index: itself first, then what brute force finds, with places in the pixels of the files."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.errors import ImageError, UsageError, WeightsError
from ibot_hub.features.extraction import extract
from ibot_hub.features.table import Features, open_features
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.retrieval import neighbours
from ibot_hub.retrieval.index import Index
from ibot_hub.retrieval.indexing import build_index
from ibot_hub.retrieval.neighbours import check_model, model_of, search

NAMES = ("butterfly", "coffee", "graf1", "graf3", "rocket", "two_dogs")


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth", head=False)


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in NAMES:
        shutil.copy(photos / f"{name}.jpg", folder)
    (folder / "broken.jpg").write_bytes(b"")  # comes first, and must not shift the others
    return folder


@pytest.fixture(scope="module")
def features(model: Model, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Features:
    folder = tmp_path_factory.mktemp("features")
    extract(
        model, source, folder, tokens="both", size=96, resize="keep", layers=2, pool="cls+mean", device="cpu", dtype="float32", workers=1
    )
    return open_features(folder)


@pytest.fixture(scope="module")
def of_images(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build_index(features, tmp_path_factory.mktemp("indices") / "images")


@pytest.fixture(scope="module")
def of_patches(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build_index(features, tmp_path_factory.mktemp("indices") / "patches", of="patches")


def cosines(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    query, vectors = query.astype(np.float64), vectors.astype(np.float64)
    return vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def test_an_image_finds_itself_then_what_brute_force_finds(of_images: Index, features: Features, model: Model, source: Path) -> None:
    hits = search(of_images, model, source / "graf1.jpg", k=4)
    expected = cosines(features.feature[2], features.feature[:])
    order = np.argsort(-expected)[:4]
    assert order[0] == 2
    assert [hit.image for hit in hits.hits] == order.tolist()
    assert [hit.path for hit in hits.hits] == [f"{NAMES[row]}.jpg" for row in order]
    np.testing.assert_allclose([hit.score for hit in hits.hits], expected[order], atol=1e-5)
    assert hits.patch is None
    assert all(hit.patch is None for hit in hits.hits)


def test_the_same_image_at_another_size_comes_first(of_images: Index, model: Model, source: Path) -> None:
    for name in NAMES:
        image = decode(source / f"{name}.jpg")
        assert search(of_images, model, image.resize((image.width // 2, image.height // 2)), k=1).hits[0].path == f"{name}.jpg"


def test_of_a_small_index_all_are_found(of_images: Index, of_patches: Index, model: Model, source: Path) -> None:
    hits = search(of_images, model, source / "rocket.jpg", k=100).hits
    assert sorted(hit.path for hit in hits) == [f"{name}.jpg" for name in NAMES]
    assert len(search(of_patches, model, source / "rocket.jpg", k=100, patch=(0, 0)).hits) == len(NAMES)
    assert len(search(of_patches, model, source / "rocket.jpg", k=10**6, patch=(0, 0), per_image=10**6).hits) == len(of_patches)


def test_a_patch_finds_itself_then_the_best_of_each_other_image(of_patches: Index, features: Features, model: Model, source: Path) -> None:
    patch = (2, 3)
    hits = search(of_patches, model, source / "graf1.jpg", patch=patch)
    assert hits.patch == patch
    assert (hits.hits[0].path, hits.hits[0].patch) == ("graf1.jpg", patch)
    best = {}
    for row, patches in enumerate(features.patches):
        scores = cosines(features.patches[2][patch], patches.reshape(-1, patches.shape[-1]))
        best[row] = (scores.max(), tuple(int(place) for place in np.unravel_index(scores.argmax(), patches.shape[:2])))
    assert [hit.image for hit in hits.hits] == sorted(best, key=lambda row: -best[row][0])
    for hit in hits.hits:
        assert hit.patch == best[hit.image][1]
        assert hit.score == pytest.approx(best[hit.image][0], abs=1e-5)


def test_as_many_of_one_image_as_are_wanted(of_patches: Index, features: Features, model: Model, source: Path) -> None:
    hits = search(of_patches, model, source / "graf1.jpg", k=8, patch=(2, 3), per_image=2).hits
    rows = [hit.image for hit in hits]
    assert len(hits) == 8
    assert max(rows.count(row) for row in rows) == 2
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    every = np.concatenate([patches.reshape(-1, patches.shape[-1]) for patches in features.patches])
    free = search(of_patches, model, source / "graf1.jpg", k=8, patch=(2, 3), per_image=8).hits
    np.testing.assert_allclose([hit.score for hit in free], -np.sort(-cosines(features.patches[2][2, 3], every))[:8], atol=1e-5)


def test_a_point_is_in_the_pixels_of_the_file(of_patches: Index, model: Model, source: Path) -> None:
    hits = search(of_patches, model, source / "graf1.jpg", at=(300.5, 200.5))
    assert hits.patch is not None
    assert hits.fit.patch_at(300.5, 200.5) == hits.patch
    left, top, right, bottom = hits.fit.box(*hits.patch)
    assert left <= 300.5 < right
    assert top <= 200.5 < bottom
    assert search(of_patches, model, source / "graf1.jpg", patch=hits.patch).hits == hits.hits
    first = hits.hits[0]
    assert first.patch is not None
    assert first.fit.patch_at(*first.fit.centre(*first.patch)) == first.patch
    assert (first.fit.width, first.fit.height) == decode(source / "graf1.jpg").size


def test_of_equal_ones_the_first_in_the_index_comes_first(model: Model, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(5):
        shutil.copy(photos / "coffee.jpg", tmp_path / "source" / f"{number}.jpg")
    extract(model, tmp_path / "source", tmp_path / "features", size=64, device="cpu", dtype="float32", batch_size=1, workers=1)
    index = build_index(tmp_path / "features", tmp_path / "index")
    assert [hit.path for hit in search(index, model, photos / "coffee.jpg", k=3).hits] == ["0.jpg", "1.jpg", "2.jpg"]


def test_what_cannot_be_asked_is_told(of_images: Index, of_patches: Index, model: Model, source: Path) -> None:
    photo = source / "graf1.jpg"
    with pytest.raises(UsageError, match=r"finds images, not patches; `ibot index FEATURES --of patches`"):
        search(of_images, model, photo, patch=(0, 0))
    for both in ({}, {"patch": (0, 0), "at": (1.0, 1.0)}):
        with pytest.raises(UsageError, match=r"finds patches; say which .*--patch ROW,COLUMN, or --at X,Y"):
            search(of_patches, model, photo, **both)
    for patch in ((6, 0), (0, 8), (-1, 0)):
        with pytest.raises(UsageError, match=rf"no patch {patch[0]},{patch[1]}: the image has 6 rows and 8 columns"):
            search(of_patches, model, photo, patch=patch)
    with pytest.raises(UsageError, match="sees x from 0 to 640 and y from 0 to 512"):
        search(of_patches, model, photo, at=(640.5, 3))
    with pytest.raises(UsageError, match="k is 0; it must be at least 1"):
        search(of_images, model, photo, k=0)
    with pytest.raises(UsageError, match="per_image is 0"):
        search(of_images, model, photo, per_image=0)


def test_another_model_is_refused_by_name(of_images: Index, model: Model, golden: Path, source: Path) -> None:
    student = load(golden / "vit_micro_checkpoint.pth", network="student", head=False)
    for wrong in (student, load("tiny", head=False)):
        with pytest.raises(WeightsError, match=r"made with .*vit_micro_checkpoint.pth \(teacher\), weights \w{12}...; .* has others"):
            search(of_images, wrong, source / "graf1.jpg")
    check_model(of_images, model)


def test_weights_are_hashed_once_for_each_model(of_images: Index, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(backbone: torch.nn.Module) -> str:
        nonlocal count
        count += 1
        return of_images.manifest.features.weights

    monkeypatch.setattr(neighbours, "weights_digest", counted)
    model = load(golden / "vit_micro_checkpoint.pth", head=False)
    check_model(of_images, model)
    check_model(of_images, model)
    assert count == 1


def test_the_model_of_an_index_is_loaded_by_its_name_or_from_where_it_is_now(of_images: Index, golden: Path, tmp_path: Path) -> None:
    assert model_of(of_images).card.network == "teacher"
    moved = replace(of_images, manifest=replace(of_images.manifest, features=replace(of_images.manifest.features, model="gone")))
    with pytest.raises(UsageError, match=r"was made with gone, which is not here: .* --model says where it is now"):
        model_of(moved)
    shutil.copy(golden / "vit_micro_checkpoint.pth", tmp_path / "now.pth")
    assert model_of(moved, str(tmp_path / "now.pth")).card.name.endswith("now.pth")
    with pytest.raises(WeightsError, match=r"made with gone \(teacher\).*; tiny has others"):
        model_of(moved, "tiny")


def test_an_image_that_is_gone_or_another_by_now_says_so(of_images: Index, model: Model, source: Path, tmp_path: Path) -> None:
    hit = search(of_images, model, source / "rocket.jpg", k=1).hits[0]
    assert hit.read().size == (hit.fit.width, hit.fit.height)
    with pytest.raises(ImageError, match="no such file"):
        replace(hit, entry=replace(hit.entry, location=str(tmp_path / "gone.jpg"))).read()
    Image.new("RGB", (40, 30)).save(tmp_path / "other.png")
    with pytest.raises(ImageError, match=r"40 x 30 now, was \d+ x \d+"):
        replace(hit, entry=replace(hit.entry, location=str(tmp_path / "other.png"))).read()
