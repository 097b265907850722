"""`ibot index` and `ibot search`: from a folder of features to a table, a sheet and JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.draw.hits import draw_hits
from ibot_hub.features.extraction import extract
from ibot_hub.loading import load
from ibot_hub.retrieval.index import open_index
from ibot_hub.retrieval.neighbours import model_of
from ibot_hub.retrieval.neighbours import search as ask

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def features(golden: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    model = load(golden / "vit_micro_checkpoint.pth", head=False)
    extract(model, photos, folder, tokens="both", size=64, limit=6, device="cpu", dtype="float32", workers=1)
    return folder


def test_nearest_images(ibot: Ibot, features: Path, photos: Path, tmp_path: Path) -> None:
    code, stdout, stderr = ibot("index", features, "-o", tmp_path / "index")
    assert (code, stdout) == (0, "")
    assert stderr.startswith("6 images by ")
    assert stderr.endswith(f"-> {tmp_path / 'index'}, exact\n")
    words = ("search", tmp_path / "index", photos / "coffee.jpg", "-k", "3", "-o", tmp_path / "hits.png")
    code, stdout, stderr = ibot(*words)
    assert code == 0
    index = open_index(tmp_path / "index")
    hits = ask(index, model_of(index), photos / "coffee.jpg", 3)
    lines = [line.split() for line in stdout.splitlines()]
    assert lines == [[str(rank), f"{hit.score:.3f}", hit.path] for rank, hit in enumerate(hits.hits, 1)]
    assert lines[0][1:] == ["1.000", "coffee.jpg"]
    assert f"3 of 6 images -> {tmp_path / 'hits.png'}" in stderr
    assert "teacher network" in stderr
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "hits.png")), np.asarray(draw_hits(photos / "coffee.jpg", hits)))
    facts = json.loads(ibot(*words, "--json")[1])
    assert (facts["of"], facts["patch"], len(facts["hits"])) == ("images", None, 3)
    assert facts["hits"][0] == {"path": "coffee.jpg", "file": str(photos / "coffee.jpg"), "score": pytest.approx(1, abs=1e-5)}


def test_nearest_patches(ibot: Ibot, features: Path, photos: Path, tmp_path: Path) -> None:
    code, stdout, _ = ibot("index", features, "-o", tmp_path / "index", "--of", "patches", "--kind", "hnsw", "--json")
    facts = json.loads(stdout)
    assert (code, facts["of"], facts["kind"], facts["count"], facts["images"], facts["width"]) == (0, "patches", "hnsw", 96, 6, 128)
    words = ("search", tmp_path / "index", photos / "coffee.jpg", "-o", tmp_path / "hits.png")
    code, stdout, _ = ibot(*words, "--patch", "1,2", "-k", "2")
    assert (code, stdout.splitlines()[0]) == (0, "1   1.000  coffee.jpg  patch 1,2")
    code, stdout, _ = ibot(*words, "--at", "300.5,200", "-k", "4", "--per-image", "4", "--json")
    facts = json.loads(stdout)
    assert code == 0
    first = facts["hits"][0]
    assert first["patch"] == facts["patch"]
    assert np.hypot(first["centre"][0] - 300.5, first["centre"][1] - 200) < 70  # of patches 114 pixels wide
    assert len(facts["hits"]) == 4


def test_defaults_stand_in_the_working_folder(
    ibot: Ibot, features: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ibot("index", features)[0] == 0
    code, stdout, _ = ibot("search", "index", photos / "coffee.jpg")
    assert (code, len(stdout.splitlines())) == (0, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits.png", "index"]


def test_what_is_wrong_is_told(ibot: Ibot, features: Path, photos: Path, tmp_path: Path) -> None:
    assert ibot("index", features, "-o", tmp_path / "index", "--of", "patches")[0] == 0
    photo = photos / "coffee.jpg"
    for words, exit_code, said in (
        (("index", tmp_path), 1, "is not a folder of features"),
        (("index", features, "-o", features), 1, "holds something else than an index"),
        (("search", tmp_path, photo), 1, "is not an index: it holds no index.json"),
        (("search", tmp_path / "index", tmp_path / "missing.jpg"), 1, "missing.jpg: no such file"),
        (("search", tmp_path / "index", photo), 2, "--patch ROW,COLUMN, or --at X,Y"),
        (("search", tmp_path / "index", photo, "--patch", "3"), 2, "--patch is '3'; it must be ROW,COLUMN, such as --patch 3,5"),
        (("search", tmp_path / "index", photo, "--at", "3,x"), 2, "--at is '3,x'; it must be X,Y"),
        (("search", tmp_path / "index", photo, "--patch", "0,0", "--model", "tiny"), 1, "tiny has others"),
    ):
        code, stdout, stderr = ibot(*words)
        assert (code, stdout) == (exit_code, "")
        assert said in stderr
        assert not (Path.cwd() / "hits.png").exists()
