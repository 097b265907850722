"""Copies of photographs, really cropped and compressed, find their originals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.evaluation.copies import CopyOptions, copy_vectors, evaluate_copies, find_whitening, measure_copies, number_of, read_copies
from ibot_hub.images import decode
from ibot_hub.listing import Entry
from ibot_hub.loading import load
from ibot_hub.tokens import Tokens

PHOTOS = ("astronaut", "butterfly", "cat_chelsea", "clock", "coffee", "fruits")


@pytest.fixture(scope="module")
def copydays(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs and their copies in the folders of Copydays."""
    root = tmp_path_factory.mktemp("copydays")
    for number, name in enumerate(PHOTOS):
        image = decode(photos / f"{name}.jpg")
        width, height = image.size
        cut = image.crop((width // 10, height // 10, width, height))
        turned = image.rotate(20).resize((width // 3, height // 3)).convert("L")
        for block, copy, quality in (("original", image, 95), ("jpegqual/10", image, 10), ("crops/20", cut, 75), ("strong", turned, 20)):
            (root / block).mkdir(parents=True, exist_ok=True)
            place = 0 if block == "original" else 1
            copy.save(root / block / f"{2000 + number}{place:02d}.jpg", quality=quality)
    return root


def test_the_folders_of_copydays_are_read(copydays: Path) -> None:
    images = read_copies(copydays)
    assert [entry.name for entry in images.originals] == [f"original/200{number}00.jpg" for number in range(6)]
    assert {block: len(entries) for block, entries in images.copies.items()} == {"crops/20": 6, "jpegqual/10": 6, "strong": 6}
    assert number_of(images.copies["strong"][3]) == "2003"


def test_compressed_copies_are_found_more_easily_than_distorted_ones(copydays: Path, tmp_path: Path) -> None:
    model = load("tiny", head=False)
    report = evaluate_copies(model, read_copies(copydays), tmp_path, size=64, device="cpu")
    found = dict(zip(report.blocks, report.mean_ap, strict=True))
    assert found["jpegqual/10"] == 100
    assert found["strong"] < found["crops/20"] <= 100
    chance = 100 * np.mean([1.0, *(1 / (2 * place) for place in range(2, 7))])
    assert found["strong"] > chance
    assert report.queries == (6, 6, 6)
    assert report.images == 6
    assert report.table.rows[1] == ("jpegqual/10", 6, 6, 100.0)


def test_distractors_and_whitening(copydays: Path, tmp_path: Path) -> None:
    """Distractors that are the copies themselves take the first place; whitening changes what is near."""
    model, images = load("tiny", head=False), read_copies(copydays)
    report = evaluate_copies(model, images, tmp_path, distractors=copydays / "jpegqual", size=64, device="cpu")
    assert report.images == 12
    assert dict(zip(report.blocks, report.mean_ap, strict=True))["jpegqual/10"] == 25  # the second answer
    plain = evaluate_copies(model, images, tmp_path, size=64, device="cpu")
    whitened = evaluate_copies(model, images, tmp_path, whitening=copydays / "strong", size=64, device="cpu")
    assert whitened.mean_ap != plain.mean_ap


def test_the_vector_is_cls_and_the_generalised_mean() -> None:
    tokens = Tokens(torch.randn(2, 3), torch.randn(2, 4, 5, 3))
    found = copy_vectors(tokens).numpy()
    assert found.shape == (2, 6)
    assert found[:, :3] == pytest.approx(tokens.cls.numpy())
    patches = np.maximum(tokens.patches.numpy().reshape(2, 20, 3), 1e-6)
    assert found[:, 3:] == pytest.approx((patches**4).mean(axis=1) ** 0.25, rel=1e-5)


def test_whitened_features_vary_alike_in_all_directions(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    features = torch.randn(500, 6) * torch.tensor([9.0, 5, 3, 2, 1, 0.5]) + 4
    white = find_whitening(features)(features)
    assert white.mean(dim=0).abs().max() < 1e-4
    assert white.T.cov(correction=0).numpy() == pytest.approx(np.eye(6), abs=1e-3)
    assert capsys.readouterr().err == ""
    few = find_whitening(features[:4])
    assert "learnt from 4 images, no more than the 6 numbers of a vector: it will distort" in capsys.readouterr().err
    assert few(features).shape == (500, 3)  # what four images can tell
    assert few(features[:4]).T.cov(correction=0).numpy() == pytest.approx(np.eye(3), abs=1e-3)
    with pytest.raises(UsageError, match="at least two images; this is 1"):
        find_whitening(features[:1])
    with pytest.raises(UsageError, match="images that differ"):
        find_whitening(features[:1].repeat(3, 1))


def test_originals_count_among_the_first_answers_alone() -> None:
    """The original of the query is its third answer, behind another original and a distractor."""
    angles = torch.tensor([0.3, 0.1, 0.2])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    copies = {"strong": (torch.tensor([[1.0, 0]]), ["2000"])}
    third = measure_copies(gallery, ["2000", "2001", None], copies, depth=3)
    assert third.mean_ap == pytest.approx((100 / 6,))
    assert measure_copies(gallery, ["2000", "2001", None], copies, depth=2).mean_ap == (0,)
    assert "among the first 3" in third.table.title
    assert CopyOptions().depth == 20
    with pytest.raises(UsageError, match="no image of photograph 2000, which strong holds a copy of"):
        measure_copies(gallery, ["2002", "2001", None], copies)


def test_features_are_compared_by_their_direction() -> None:
    gallery = F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1) * torch.tensor([[1.0], [9], [1], [2], [3]])
    copies = {"a": (gallery * 7, ["0000", "0001", "0002", "0003", "0004"])}
    assert measure_copies(gallery, copies["a"][1], copies).mean_ap == pytest.approx((100,))


def test_folders_that_are_no_copydays_are_refused(tmp_path: Path, photos: Path) -> None:
    def put(name: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    with pytest.raises(SourceError, match=r"coffee\.jpg is no folder"):
        read_copies(photos / "coffee.jpg")
    with pytest.raises(SourceError, match="No image found"):
        read_copies(tmp_path)
    put("original/200000.jpg")
    put("200000.jpg")
    with pytest.raises(UsageError, match="holds 1 images in original and 0 other folders of images; both are needed"):
        read_copies(tmp_path)
    put("strong/200101.jpg")
    with pytest.raises(UsageError, match=r"No image in original begins with the digits of strong/200101\.jpg; 1 copies have no original"):
        read_copies(tmp_path)
    put("original/200001.jpg")
    with pytest.raises(UsageError, match=r"original/200001\.jpg and original/200000\.jpg share their first 4 digits"):
        read_copies(tmp_path)
    with pytest.raises(UsageError, match=r"strong/cat\.jpg does not begin with 4 digits"):
        number_of(Entry("strong/cat.jpg", ""))
