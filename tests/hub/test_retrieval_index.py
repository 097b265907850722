"""An index opens again without what made it, is read from disk as it is asked, and says what is wrong with it."""

import builtins
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.features.extraction import extract
from ibot_hub.features.table import open_features
from ibot_hub.loading import load
from ibot_hub.retrieval.index import IndexManifest, import_faiss, normalised, open_index
from ibot_hub.retrieval.indexing import build_index


@pytest.fixture(scope="module")
def made(golden: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the patches of three photographs; the features are gone."""
    folder = tmp_path_factory.mktemp("made")
    model = load(golden / "vit_micro_checkpoint.pth", head=False)
    extract(model, photos, folder / "features", tokens="both", size=64, limit=3, device="cpu", dtype="float32", workers=1)
    build_index(folder / "features", folder / "index", of="patches")
    (folder / "features").rename(folder / "elsewhere")
    return folder / "index"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_it_opens_again_with_all_that_a_search_needs(made: Path) -> None:
    index = open_index(str(made))
    assert (len(index), index.manifest.images, index.manifest.width) == (48, 3, 128)
    assert index.manifest == IndexManifest.from_json(index.manifest.to_json())
    features = open_features(made.parent / "elsewhere")
    assert index.manifest.features == features.manifest
    patches = features.patches[:].reshape(48, 128)
    scores, numbers = index.nearest(patches, 1)
    assert numbers[:, 0].tolist() == list(range(48))
    np.testing.assert_allclose(scores, 1, atol=1e-6)
    assert [index.place(number) for number in (0, 15, 16, 47)] == [(0, (0, 0)), (0, (3, 3)), (1, (0, 0)), (2, (3, 3))]
    assert [index.image(row).path for row in range(3)] == features.paths
    assert Path(index.image(1).entry.location).is_file()


def test_more_than_there_are_is_all(made: Path) -> None:
    index = open_index(made)
    scores, numbers = index.nearest(np.ones((2, 128), np.float32), 1000)
    assert scores.shape == numbers.shape == (2, 48)
    assert sorted(numbers[0].tolist()) == list(range(48))


def test_vectors_have_length_one_and_zeros_stay() -> None:
    vectors = np.array([[3, 4], [0, 0], [-7, 0]], np.float32)
    np.testing.assert_allclose(normalised(vectors), [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    assert vectors[0].tolist() == [3, 4]
    assert normalised(vectors).dtype == np.float32


def own_memory() -> float:
    """MiB that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an index is read into memory")
def test_vectors_are_read_from_disk_as_they_are_asked(copied: Path) -> None:
    faiss = import_faiss()
    vectors = faiss.IndexFlatIP(128)
    for _ in range(10):
        vectors.add(np.ones((20_000, 128), np.float32))  # 10 MB each
    faiss.write_index(vectors, str(copied / "index.faiss"))
    facts = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps(facts | {"count": 200_000}))
    del vectors
    before = own_memory()
    index = open_index(copied)
    index.nearest(np.ones((1, 128), np.float32), 3)
    assert own_memory() - before < 30


def test_what_is_no_index_or_a_damaged_one_is_told(copied: Path, tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "missing", copied / "index.faiss"):
        with pytest.raises(StoreError, match=r"is not an index: it holds no index.json; `ibot index FEATURES -o .*` makes one"):
            open_index(nothing)
    whole = {path.name: path.read_bytes() for path in copied.iterdir()}
    assert sorted(whole) == ["images.arrow", "index.faiss", "index.json"]
    for name in ("images.arrow", "index.faiss"):
        for share in (0, 0.5, 0.98):
            (copied / name).write_bytes(whole[name][: int(share * len(whole[name]))])
            with pytest.raises(StoreError, match=r"copy is damaged \(.*\); build the index again"):
                open_index(copied)
        (copied / name).unlink()
        with pytest.raises(StoreError, match=r"copy is damaged \(.*\); build the index again"):
            open_index(copied)
        (copied / name).write_bytes(whole[name])
    facts = json.loads(whole["index.json"])
    (copied / "index.json").write_text(json.dumps(facts | {"count": 47}))
    with pytest.raises(StoreError, match=r"damaged \(48 vectors and 3 images, not 47 and 3\)"):
        open_index(copied)
    for broken in ("{", "[]", json.dumps(facts | {"more": 1}), json.dumps(facts | {"features": {}})):
        (copied / "index.json").write_text(broken)
        with pytest.raises(StoreError, match=r"index.json cannot be read \(.*\); build the index again"):
            open_index(copied)


def test_without_faiss_the_extra_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_faiss(name, *rest):  # type: ignore[no-untyped-def]
        if name == "faiss":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    for attempt in (lambda: open_index(made), lambda: build_index(made.parent / "elsewhere", made.parent / "new")):
        with pytest.raises(UsageError, match=r"needs faiss: pip install 'ibot-hub\[search\]'"):
            attempt()
    assert not (made.parent / "new").exists()


def test_faiss_has_the_threads_that_torch_has() -> None:
    faiss = import_faiss()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert import_faiss().omp_get_max_threads() == threads
    finally:
        torch.set_num_threads(before)
        faiss.omp_set_num_threads(before)
