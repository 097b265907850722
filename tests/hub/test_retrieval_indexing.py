"""An index holds every vector of an extraction, in its order, and knows where the images are."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.features.shards import Failure, Rows
from ibot_hub.features.store import Manifest, save_manifest, write_shard
from ibot_hub.features.table import open_features
from ibot_hub.listing import write_listing
from ibot_hub.retrieval.index import open_index
from ibot_hub.retrieval.indexing import _train, build_index

IMAGES, SHARD, WIDTH = 11, 3, 16
FAILED = {2, 3, 4, 5, 10}  # all of the second shard
GOOD = [row for row in range(IMAGES) if row not in FAILED]
FIXED = {"feature": [WIDTH], "patches": [2, 3, WIDTH]}
VARYING = {"feature": [WIDTH], "patches": None}


def of_image(row: int, shapes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(row)
    grid = (1 + row % 3, 2 + row % 2, WIDTH)
    return {name: random.standard_normal(grid if shape is None else shape, np.float32) for name, shape in shapes.items()}


def save(
    folder: Path, shapes=FIXED, *, format: str = "parquet", images: int = IMAGES, failed=frozenset(FAILED), shard: int = SHARD
) -> Path:
    """A folder of features as an extraction writes it."""
    folder.mkdir()
    paths = folder.parent / "paths.txt"
    paths.write_text("".join(f"{row}.jpg\n" for row in range(images)))
    listing = write_listing(paths, folder / "listing.parquet")
    texts = {field: field for field in ("arch", "network", "weights", "tokens", "pool", "dtype")} | {"model": "vit_x", "source": "photos"}
    numbers = {"images": images, "device": "cpu", "shard_size": shard, "layers": 1, "batch_size": 2, "listing": listing.digest}
    save_manifest(folder, Manifest(**texts, **numbers, format=format, columns=shapes, preprocessing={}, versions={}))
    for index, first in enumerate(range(0, images, shard)):
        share = range(first, min(first + shard, images))
        good = [row for row in share if row not in failed]
        columns = [of_image(row, shapes) for row in good]
        arrays = {name: [column[name] for column in columns] for name in shapes}
        arrays = {name: np.array(values) if shapes[name] else values for name, values in arrays.items()}
        failures = tuple(Failure(row, f"{row}.jpg", "broken") for row in share if row in failed)
        rows = Rows([f"{row}.jpg" for row in good], [100 + row for row in good], [200 + row for row in good], arrays, failures)
        write_shard(folder, index, format, rows, shapes)
    return folder


def cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    queries, vectors = (values.astype(np.float64) / np.linalg.norm(values, axis=1, keepdims=True) for values in (queries, vectors))
    return queries @ vectors.T


def many(folder: Path, count: int) -> tuple[Path, np.ndarray]:
    """Features of images without failures, and those features."""
    save(folder, {"feature": [WIDTH]}, images=count, failed=(), shard=500)
    return folder, open_features(folder).feature[:]


@pytest.mark.parametrize("format", ["parquet", "safetensors", "npy"])
@pytest.mark.parametrize("shapes", [FIXED, VARYING], ids=["fixed", "varying"])
def test_every_patch_is_a_vector_whose_image_and_place_are_known(tmp_path, shapes, format):
    index = build_index(save(tmp_path / "features", shapes, format=format), tmp_path / "index", of="patches")
    patches = [(row, place) for row in GOOD for place in np.ndindex(of_image(row, shapes)["patches"].shape[:2])]
    vectors = np.array([of_image(row, shapes)["patches"][place] for row, place in patches])
    assert len(index) == index.manifest.count == len(patches)
    scores, numbers = index.nearest(vectors, 3)
    assert numbers[:, 0].tolist() == list(range(len(patches)))  # the nearest to each is itself
    expected = np.sort(cosines(vectors, vectors))[:, ::-1][:, :3]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    for number, (row, place) in enumerate(patches):
        image, patch = index.place(number)
        assert (GOOD[image], patch) == (row, place)


def test_every_image_is_a_vector_and_failures_shift_nothing(tmp_path):
    index = build_index(open_features(save(tmp_path / "features")), tmp_path / "index")
    vectors = np.array([of_image(row, FIXED)["feature"] for row in GOOD])
    queries = np.random.default_rng(99).standard_normal((5, WIDTH), np.float32)
    scores, numbers = index.nearest(queries, 4)
    expected = cosines(queries, vectors)
    np.testing.assert_array_equal(numbers, np.argsort(-expected)[:, :4])
    np.testing.assert_allclose(scores, -np.sort(-expected)[:, :4], atol=1e-6)
    for number, row in enumerate(GOOD):
        assert index.place(number) == (number, None)
        image = index.image(number)
        assert (image.path, image.width, image.height) == (f"{row}.jpg", 100 + row, 200 + row)
        assert image.entry.location == str(Path.cwd() / f"{row}.jpg")
    assert (index.manifest.images, index.manifest.width, index.manifest.kind) == (len(GOOD), WIDTH, "exact")
    assert index.manifest.features == open_features(tmp_path / "features").manifest


@pytest.mark.parametrize("kind", ["hnsw", "IVF8,Flat", "IVF8,SQ8"])
def test_other_kinds_find_nearly_all_that_the_exact_one_finds(tmp_path, kind):
    features, vectors = many(tmp_path / "features", 1200)
    index = build_index(features, tmp_path / "index", kind=kind)
    queries = vectors[:100] + np.random.default_rng(0).standard_normal((100, WIDTH), np.float32) * 0.2
    exact = np.argsort(-cosines(queries, vectors))[:, :10]
    found = index.nearest(queries, 10)[1]
    recall = np.mean([len(set(truth) & set(answer)) / 10 for truth, answer in zip(exact, found, strict=True)])
    assert recall > {"hnsw": 0.99, "IVF8,Flat": 0.3, "IVF8,SQ8": 0.3}[kind]
    assert (found[:, 0] == np.arange(100)).mean() > {"hnsw": 0.99, "IVF8,Flat": 0.8, "IVF8,SQ8": 0.8}[kind]


def test_a_kind_that_learns_takes_vectors_at_equal_steps_of_all_shards(tmp_path, monkeypatch):
    features, vectors = many(tmp_path / "features", 1200)
    seen = []

    class Learner:
        is_trained = False

        def train(self, sample):
            seen.append(sample)

    monkeypatch.setattr("ibot_hub.retrieval.indexing.TRAINING", 350)
    _train(Learner(), open_features(features).feature, "any", 1200)
    expected = vectors[::4] / np.linalg.norm(vectors[::4], axis=1, keepdims=True)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)


def test_what_is_not_there_is_told_with_the_command_that_makes_it(tmp_path):
    features = save(tmp_path / "features", {"feature": [WIDTH]})
    with pytest.raises(StoreError, match=r"holds no patches to index .*`ibot extract-features photos --model vit_x --tokens both -o"):
        build_index(features, tmp_path / "index", of="patches")
    nothing = save(tmp_path / "nothing", failed=set(range(IMAGES)))
    with pytest.raises(StoreError, match="features of no image: none of 11 could be read"):
        build_index(nothing, tmp_path / "index")
    with pytest.raises(UsageError, match=r"of is 'cls'; it must be one of images, patches"):
        build_index(features, tmp_path / "index", of="cls")
    with pytest.raises(UsageError, match=r"faiss knows no kind of index 'fast' .*; say exact, hnsw, or such as IVF1024,SQ8"):
        build_index(features, tmp_path / "index", kind="fast")
    with pytest.raises(UsageError, match="6 vectors are too few to train an index of kind IVF8,Flat; take a smaller one, or exact"):
        build_index(features, tmp_path / "index", kind="IVF8,Flat")
    (tmp_path / "paths.txt").write_text("a.jpg\nb.jpg\n")
    write_listing(tmp_path / "paths.txt", features / "listing.parquet")
    with pytest.raises(StoreError, match=r"is not the list of images that .* was made from"):
        build_index(features, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_index_is_replaced_and_nothing_else(tmp_path):
    features = save(tmp_path / "features")
    out = tmp_path / "index"
    out.mkdir()
    build_index(features, out)
    assert build_index(features, out, of="patches").manifest.of == "patches"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "index", "paths.txt"]
    (out / "notes.txt").write_text("mine")
    (features / "index.json").write_text("a common name")
    before = sorted(tmp_path.rglob("*"))
    for taken in (features, tmp_path / "paths.txt", out):
        with pytest.raises(StoreError, match="holds something else than an index; choose another --out"):
            build_index(features, taken)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path):
    features = save(tmp_path / "features")
    for left in (".index.partial", ".index.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "index.faiss").write_bytes(b"half")
    assert len(build_index(features, tmp_path / "index")) == len(GOOD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "index", "paths.txt"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk is like: writing more fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_an_index_is_written_whole_or_not_at_all(tmp_path):
    features, _ = many(tmp_path / "features", 1200)
    build_index(save(tmp_path / "others"), tmp_path / "index")
    for size in (100, 60_000):  # the disk is full at the images, or at the vectors
        with files_of_at_most(size), pytest.raises(StoreError, match=r"index cannot be written \(.*\); free space, or choose another"):
            build_index(features, tmp_path / "index")
    assert len(open_index(tmp_path / "index")) == len(GOOD)  # the earlier one stays
    assert not list(tmp_path.glob(".*"))
