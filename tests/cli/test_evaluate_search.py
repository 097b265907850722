"""`ibot eval retrieval`, `revisited` and `copy`: tables, records, and one sentence for what is wrong."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ibot_hub.features.plan import weights_digest
from ibot_hub.loading import load

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def classes(photos: Path, tmp_path: Path) -> Path:
    """Two classes of two photographs each, every one as it is and cut."""
    for group, names in {"dogs": ("dog_chicky", "two_dogs"), "walls": ("graf1", "graf3")}.items():
        (tmp_path / "images" / group).mkdir(parents=True)
        for name in names:
            with Image.open(photos / f"{name}.jpg") as image:
                small = image.resize((96, 64))
                small.save(tmp_path / "images" / group / f"{name}.png")
                small.crop((8, 4, 96, 64)).save(tmp_path / "images" / group / f"{name}_cut.png")
    return tmp_path / "images"


def test_retrieval_of_class_folders(ibot: Ibot, classes: Path, tmp_path: Path) -> None:
    code, stdout, stderr = ibot("eval", "retrieval", "--gallery", classes, "--model", "tiny", "--device", "cpu", "-o", tmp_path / "out")
    assert code == 0
    assert stdout.splitlines()[0] == "Retrieval, per cent"
    record = json.loads((tmp_path / "out" / "retrieval.json").read_text())
    assert f"written to {tmp_path / 'out' / 'retrieval.json'}" in stderr
    assert record["weights"] == weights_digest(load("tiny").backbone)
    assert (record["results"]["images"], record["results"]["queries"], record["settings"]["classes"]) == (8, 8, 2)
    assert record["data"] == {"gallery": str(classes)}
    assert f"{record['results']['map']:.2f}" in stdout
    assert 50 < record["results"]["map"] <= 100
    (classes / "dogs" / "broken.png").write_bytes(b"no image")
    again = ibot("eval", "retrieval", "--gallery", classes, "--model", "tiny", "--device", "cpu", "-o", tmp_path / "again", "--json")
    assert json.loads(again[1])["results"]["left_out"] == {"gallery": 1}


def test_a_class_of_one_image_is_named(ibot: Ibot, classes: Path, tmp_path: Path) -> None:
    (classes / "cats").mkdir()
    Image.new("RGB", (64, 64)).save(classes / "cats" / "cat.png")
    code, _, stderr = ibot("eval", "retrieval", "--gallery", classes, "--model", "vit_nope", "-o", tmp_path / "out")
    assert (code, "Class 'cats' has a single image, which finds no other" in stderr) == (2, True)  # told before a model is fetched


def test_retrieval_of_features_with_queries(ibot: Ibot, classes: Path, tmp_path: Path) -> None:
    """The same images on both sides, so each query's first answer is itself; no model is needed."""
    assert ibot("extract-features", classes, "-o", tmp_path / "features", "--model", "tiny", "--dtype", "float32")[0] == 0
    words = ("eval", "retrieval", "--gallery", tmp_path / "features", "--query", tmp_path / "features", "-o", tmp_path / "out", "--json")
    code, stdout, _ = ibot(*words)
    assert code == 0
    answer = json.loads(stdout)
    assert answer["results"]["mp"][0] == 100
    assert answer["results"]["left_out"] == {"gallery": 0, "query": 0}
    assert answer["data"] == {"gallery": str(tmp_path / "features"), "query": str(tmp_path / "features")}


@pytest.fixture
def oxford(photos: Path, tmp_path: Path) -> Path:
    """Ground truth in the form of the revisited benchmark, beside its images."""
    names = ["graf1", "graf3", "coffee"]
    gnd = [{"bbx": [100, 100, 500, 400], "easy": [0], "hard": [1], "junk": [2]}]
    folder = tmp_path / "roxford"
    (folder / "jpg").mkdir(parents=True)
    for name in names:
        (folder / "jpg" / f"{name}.jpg").symlink_to(photos / f"{name}.jpg")
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps({"imlist": names, "qimlist": ["graf1"], "gnd": gnd}))
    return folder


def test_revisited(ibot: Ibot, oxford: Path, tmp_path: Path) -> None:
    words = (
        "eval",
        "revisited",
        oxford / "gnd_roxford5k.pkl",
        "--model",
        "tiny",
        "--size",
        "96",
        "--device",
        "cpu",
        "-o",
        tmp_path / "out",
    )
    code, stdout, stderr = ibot(*words)
    assert code == 0
    assert "teacher network" in stderr
    assert [line.split()[0] for line in stdout.splitlines()[1:]] == ["setting", "easy", "medium", "hard"]
    record = json.loads((tmp_path / "out" / "revisited.json").read_text())
    assert (record["settings"]["size"], record["settings"]["dtype"], record["settings"]["device"]) == (96, "float32", "cpu")
    assert record["weights"] == weights_digest(load("tiny").backbone)
    assert set(record["results"]) == {"easy", "medium", "hard"}
    again = json.loads(ibot(*words, "--images", oxford / "jpg", "--json")[1])
    assert again["results"] == record["results"]


def test_a_ground_truth_that_wants_to_run_is_refused(ibot: Ibot, oxford: Path, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch '{tmp_path}/it ran'",)

    (oxford / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(Runs()))
    code, stdout, stderr = ibot("eval", "revisited", oxford / "gnd_roxford5k.pkl", "--model", "tiny")
    assert (code, stdout) == (2, "")
    assert "asks for posix.system, which no ground truth needs; nothing in it was run" in stderr
    assert not (tmp_path / "it ran").exists()


def test_images_that_are_missing_are_told_before_a_model_is_fetched(ibot: Ibot, oxford: Path, tmp_path: Path) -> None:
    words = ("eval", "revisited", oxford / "gnd_roxford5k.pkl", "--images", tmp_path, "--model", "vit_b16")
    code, _, stderr = ibot(*words)
    assert (code, "graf1.jpg, which the ground truth names; 3 of 3 images are missing" in stderr) == (2, True)


def test_copy(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    for block, quality in (("original", 95), ("jpegqual/5", 5)):
        (tmp_path / "copies" / block).mkdir(parents=True)
        for number, name in enumerate(("coffee", "clock", "graf1")):
            with Image.open(photos / f"{name}.jpg") as image:
                image.resize((96, 64)).save(tmp_path / "copies" / block / f"{2000 + number}00.jpg", quality=quality)
    words = ("eval", "copy", tmp_path / "copies", "--model", "tiny", "--size", "64", "--device", "cpu", "-o", tmp_path / "out")
    code, stdout, _ = ibot(*words, "--distractors", photos / "fruits.jpg")
    assert code == 0
    assert stdout.splitlines()[-1].split() == ["jpegqual/5", "3", "4", "100.00"]
    record = json.loads((tmp_path / "out" / "copy.json").read_text())
    assert record["results"] == {"jpegqual/5": {"map": 100.0, "copies": 3}}
    assert record["data"]["distractors"] == str(photos / "fruits.jpg")
    code, _, stderr = ibot(*words, "--whitening", tmp_path / "nowhere")
    assert (code, "There is no" in stderr) == (1, True)
