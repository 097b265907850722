"""A split finds its images by path or by name, and names what it does not find."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot_hub.errors import SourceError, StoreError, UsageError
from ibot_hub.evaluation.labelled import Labelled
from ibot_hub.evaluation.splits import drawn_split, read_split, rows_of, write_split
from ibot_hub.features.store import Manifest

PATHS = tuple(f"{name}/{name}_{index}.JPEG" for name in ("n01", "n02", "n03") for index in range(20))


@pytest.fixture
def train() -> Labelled:
    manifest = Manifest(
        model="tiny", arch="ViT-192x4/8", network="teacher", weights="ab" * 32, source="/data/imagenet/train", images=61, listing="cd" * 32,
        preprocessing={}, tokens="cls", layers=1, pool="cls", dtype="float32", batch_size=8, format="parquet", shard_size=1000,
        device="cpu", columns={"feature": [4]}, versions={},
    )  # fmt: skip
    labels = torch.arange(60) // 20
    return Labelled(torch.ones(60, 4), labels, ("n01", "n02", "n03"), PATHS, manifest, ("n02/n02_77.JPEG",))


def found(names: list[str], train: Labelled) -> list[int]:
    return rows_of(names, train, Path("1percent.txt")).tolist()


def test_names_and_paths(train: Labelled) -> None:
    assert found(["n03_7.JPEG", "n01_3.JPEG", "n02_0.JPEG"], train) == [3, 20, 47]  # SimCLR's form
    assert found(["n03/n03_7.JPEG", "n01/n01_3.JPEG", "n02_0.JPEG", "n02_0.JPEG"], train) == [3, 20, 47]
    listed = replace(train, paths=tuple(f"/data/{path}" for path in PATHS))
    assert found(["/data/n03/n03_7.JPEG", "n01_3.JPEG", "n02_0.JPEG"], listed) == [3, 20, 47]


def test_images_that_could_not_be_read_are_passed_over(train: Labelled) -> None:
    names = ["n03_7.JPEG", "n01_3.JPEG", "n02_0.JPEG"]
    assert found([*names, "n02_77.JPEG"], train) == found([*names, "n02/n02_77.JPEG"], train) == [3, 20, 47]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["n01_3.JPEG", "n09_1.JPEG"], r"An image of 1percent\.txt is not in /data/imagenet/train: n09_1\.JPEG"),
        (["n09_1.JPEG", "n01_3.JPEG", "n09_2.JPEG"], r"2 of 3 images of 1percent\.txt are not in /data/imagenet/train: n09_1\.JPEG"),
        (["n02/n01_3.JPEG"], r"An image of 1percent\.txt is not in"),
        (["n01_3.JPEG", "n03_3.JPEG"], r"1percent\.txt names no image of class 'n02'; 1 of 3 classes have none"),
    ],
)
def test_what_a_split_does_not_find(train: Labelled, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        found(names, train)


def test_a_name_of_several_images(train: Labelled) -> None:
    paths = tuple(path.replace("n02_", "n01_") for path in PATHS)
    with pytest.raises(UsageError, match=r"n01_3\.JPEG of 1percent\.txt is n01/n01_3\.JPEG and n02/n01_3\.JPEG of .*; name images by"):
        found(["n01_3.JPEG"], replace(train, paths=paths))
    assert found(["n01/n01_3.JPEG", "n02/n01_3.JPEG", "n03_0.JPEG"], replace(train, paths=paths)) == [3, 23, 40]


def test_a_file_of_names(tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_bytes("n01_3.JPEG\r\n\n a ü.JPEG\n".encode())
    assert read_split(tmp_path / "split.txt") == ["n01_3.JPEG", " a ü.JPEG"]
    write_split(tmp_path / "new" / "split.txt", ["b", "a"])
    assert read_split(tmp_path / "new" / "split.txt") == ["b", "a"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["split.txt"]


def test_files_that_are_no_splits(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xd8")
    for name, message in (
        ("none.txt", "There is no .*none.txt: a split is a text file that names a training image a line"),
        ("empty.txt", "empty.txt names no image"),
        ("binary.txt", r"binary.txt cannot be read as a split \(it is no text in UTF-8\)"),
        ("", r"cannot be read as a split \(Is a directory\)"),
    ):
        with pytest.raises(SourceError, match=message):
            read_split(tmp_path / name)
    with pytest.raises(StoreError, match=r"empty\.txt/split\.txt cannot be written"):
        write_split(tmp_path / "empty.txt" / "split.txt", ["a"])


def test_a_share_that_is_less_than_an_image_is_told(train: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smallest = int(train.labels.bincount().min())
    drawn_split(train, 100 / smallest, 0, tmp_path)
    assert capsys.readouterr().err == ""
    _, rows = drawn_split(train, 1, 0, tmp_path)
    assert f"1 % of the smallest class, which has {smallest} images, is less than one image; one is taken\n" == capsys.readouterr().err
    assert train.labels[rows].bincount().min() == 1


def test_what_was_drawn_stays(train: Labelled, tmp_path: Path) -> None:
    file, rows = drawn_split(train, 10, 0, tmp_path)
    assert file == tmp_path / "imagenet-train-10percent-seed0.txt"
    assert read_split(file) == [PATHS[row] for row in rows]
    assert train.labels[rows].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(drawn_split(train, 10, 0, tmp_path / "elsewhere")[1], rows)  # the seed alone decides
    other, _ = drawn_split(train, 10, 1, tmp_path)
    assert other.name == "imagenet-train-10percent-seed1.txt"
    write_split(file, read_split(other))
    assert torch.equal(drawn_split(train, 10, 0, tmp_path)[1], drawn_split(train, 10, 1, tmp_path)[1])  # what is there is taken
    write_split(file, ["n09/1.JPEG"])
    with pytest.raises(UsageError, match=r"An image of .*10percent-seed0\.txt is not in"):
        drawn_split(train, 10, 0, tmp_path)
