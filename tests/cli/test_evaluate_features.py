"""`ibot eval knn`, `logistic` and `lowshot`: from class folders or features to a table and a record."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ibot_hub.evaluation.knn import knn
from ibot_hub.evaluation.labelled import labelled
from ibot_hub.features.plan import weights_digest
from ibot_hub.loading import load
from ibot_hub.options import EvaluationOptions
from tests.class_folders import class_folders

Ibot = Callable[..., tuple[int, str, str]]

SEEN = ("--size", "32", "--device", "cpu", "--workers", "1")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("train"), 5)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("val"), 2, seed=1)


def test_knn_of_images(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    words = ("eval", "knn", "--train", train, "--val", val, "--model", checkpoint, "-o", tmp_path, "--k", "1,5", *SEEN)
    code, stdout, stderr = ibot(*words)
    assert code == 0
    assert stdout.splitlines() == [
        "k-NN on [CLS], weighted, per cent of the queries (Tables 1, 10, 15)",
        "k   top-1   top-5",
        "1  100.00  100.00",
        "5  100.00  100.00",
    ]
    assert "teacher network" in stderr
    assert stderr.endswith(f"written to {tmp_path / 'knn.json'}\n")
    facts = json.loads(ibot(*words, "--json")[1])
    assert facts == json.loads((tmp_path / "knn.json").read_text())
    assert facts["data"] == {"train": str(train), "val": str(val)}
    assert facts["settings"]["temperature"] == 0.07
    assert facts["settings"]["preprocessing"]["size"] == 32
    counts = {"images": 15, "queries": 6, "classes": 3, "left_out": {"train": 0, "val": 0}}
    assert facts["results"] == {"k": [1, 5], "top1": [100, 100], "top5": [100, 100], **counts}
    assert facts["weights"] == weights_digest(load(checkpoint).backbone)


def test_features_need_no_model_and_give_the_same(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    sides = {}
    for name, source in (("train", train), ("val", val)):
        sides[name] = tmp_path / name
        words = ("extract-features", source, "-o", sides[name], "--model", checkpoint, "--dtype", "float32", *SEEN)
        assert ibot(*words)[0] == 0
    both = ("--train", sides["train"], "--val", sides["val"])
    code, stdout, stderr = ibot("eval", "knn", *both, "-o", tmp_path / "out", "--k", "3", "--json")
    assert code == 0
    assert stderr == f"written to {tmp_path / 'out' / 'knn.json'}\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["knn.json"]
    one, other = (labelled(side, None, tmp_path, EvaluationOptions()) for side in sides.values())
    expected = knn(one.features, one.labels, other.features, other.labels, (3,))
    assert json.loads(stdout)["results"]["top1"] == list(expected.top1)


def test_numbers_of_neighbours_that_there_are_not(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    """Those one did not ask for are left out and named; those one asked for are an error."""
    words = ("eval", "knn", "--train", train, "--val", val, "--model", checkpoint, "-o", tmp_path, *SEEN)
    code, stdout, stderr = ibot(*words, "--json")
    assert (code, json.loads(stdout)["results"]["k"]) == (0, [10])
    assert "k = 20, 100, 200 are left out, for there are 15 training images" in stderr
    words = ("eval", "knn", "--train", train, "--val", val, "--model", "vit_nope", "-o", tmp_path)  # told before it is fetched
    code, stdout, stderr = ibot(*words, "--k", "10,20")
    assert (code, stdout) == (2, "")
    assert "k is [10, 20]; there are 15 training images, so each must be from 1 to 15." in stderr
    few = class_folders(tmp_path / "few", 2)
    code, _, stderr = ibot("eval", "knn", "--train", few, "--val", val, "--model", "vit_nope", "-o", tmp_path, *SEEN)
    assert code == 2
    assert "There are 6 training images, fewer than the paper's smallest k, 10; take more, or give smaller k." in stderr


def test_what_is_wrong_is_told(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    other = class_folders(tmp_path / "other", 1)
    (other / "red").rename(other / "pink")
    for words, exit_code, said in (
        (("--train", train, "--val", tmp_path / "missing"), 1, "There is no"),
        (("--train", train, "--val", other), 2, f"Class 'pink' has images in {other}, but none in {train}."),
        (("--train", train, "--val", val, "--k", "3,x"), 2, "k is '3,x'"),
    ):
        code, stdout, stderr = ibot("eval", "knn", *words, "--model", checkpoint, "-o", tmp_path / "out", *SEEN)
        assert (code, stdout) == (exit_code, "")
        assert said in stderr


def test_broken_images_are_counted(ibot: Ibot, val: Path, checkpoint: str, tmp_path: Path) -> None:
    train = class_folders(tmp_path / "train", 4, broken=2)
    words = ("eval", "knn", "--train", train, "--val", val, "--model", checkpoint, "-o", tmp_path / "out", "--k", "2", "--json", *SEEN)
    code, stdout, stderr = ibot(*words)
    results = json.loads(stdout)["results"]
    assert (code, results["images"], results["left_out"]) == (0, 10, {"train": 2, "val": 0})
    assert f"2 images of {train} could not be read and are left out" in stderr


def test_logistic(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    words = ("eval", "logistic", "--train", train, "--val", val, "--model", checkpoint, "-o", tmp_path, *SEEN)
    code, stdout, _ = ibot(*words, "--lambdas", "0.001")
    assert code == 0
    assert stdout.splitlines() == [
        "Logistic regression on [CLS], per cent of the queries (Table 12)",
        "lambda  on held-out   top-1   top-5",
        " 0.001       100.00  100.00  100.00",
    ]
    facts = json.loads(ibot(*words, "--json", "--select", "validation", "--seed", "3")[1])
    assert facts == json.loads((tmp_path / "logistic.json").read_text())
    assert (facts["settings"]["select"], facts["settings"]["seed"], len(facts["results"]["lambdas"])) == ("validation", 3, 6)
    assert facts["settings"]["scikit-learn"]
    assert (facts["results"]["top1"], facts["results"]["images"], facts["results"]["queries"]) == (100, 15, 6)
    code, _, stderr = ibot(*words, "--lambdas", "0")
    assert (code, "lambdas is '0'; it must be numbers above 0" in stderr) == (2, True)


def test_lowshot_draws_and_keeps_what_it_drew(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    words = ("eval", "lowshot", "--train", train, "--val", val, "--model", checkpoint, "--percent", "40,80", *SEEN, "--json")
    code, stdout, _ = ibot(*words, "-o", tmp_path)
    facts = json.loads(stdout)
    names = [f"{train.parent.name}-{train.name}-{percent}percent-seed0" for percent in (40, 80)]
    assert (code, list(facts["results"]["splits"])) == (0, names)
    assert [one["knn"]["images"] for one in facts["results"]["splits"].values()] == [6, 12]
    assert [one["logistic"]["top1"] for one in facts["results"]["splits"].values()] == [100, 100]
    files = [tmp_path / "splits" / f"{name}.txt" for name in names]
    assert list(facts["settings"]["splits"]) == [str(file) for file in files]
    assert [len(file.read_text().splitlines()) for file in files] == [6, 12]
    given = ("eval", "lowshot", "--train", train, "--val", val, "--model", checkpoint, *SEEN, "--json", "-o", tmp_path / "other")
    again = json.loads(ibot(*given, "--split", files[1], "--split", files[0])[1])
    assert list(again["results"]["splits"]) == [str(files[1]), str(files[0])]
    assert list(again["results"]["splits"].values()) == [facts["results"]["splits"][name] for name in reversed(names)]
    assert not (tmp_path / "other" / "splits").exists()


def test_lowshot_of_what_is_not_there(ibot: Ibot, train: Path, val: Path, checkpoint: str, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    split.write_text("red_0.png\nred_77.png\n")
    for words, exit_code, said in (
        (
            ("--split", tmp_path / "split.txt", "--model", checkpoint),
            2,
            f"An image of {tmp_path / 'split.txt'} is not in {train}: red_77.png.",
        ),
        (("--split", tmp_path / "none.txt", "--model", "vit_nope"), 1, "There is no"),  # told before a model is fetched
        (("--percent", "0", "--model", "vit_nope"), 2, "percent is '0'"),
        (("--percent", "1", "--model", checkpoint), 2, "-1percent-seed0 holds one image of each class, so none can be held out"),
    ):
        code, stdout, stderr = ibot("eval", "lowshot", "--train", train, "--val", val, "-o", tmp_path / "out", *words, *SEEN)
        assert (code, stdout) == (exit_code, "")
        assert said in stderr
