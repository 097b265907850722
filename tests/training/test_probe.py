"""What a run shows of its teacher, on images whose classes are plain to see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ibot_training.probe
from ibot_hub.draw.sheet import FONT, GAP
from ibot_hub.images import ImageTransform
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT
from ibot_training.data import Images, open_images
from ibot_training.pictures import HIDDEN, SIDE
from ibot_training.probe import GLIMPSED, glimpse, neighbours
from ibot_training.resident import Resident

CPU = torch.device("cpu")
HEAD = FONT + 2 * GAP  # pixels above the first row of a sheet
COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 20)}
TRANSFORM = ImageTransform(size=32, patch=16)


def network() -> ViT:
    torch.manual_seed(0)
    return ViT(img_size=32, patch_size=16, embed_dim=64, depth=1, num_heads=1)


def coloured(colour: tuple[int, int, int], seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-15, 16, (32, 32, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def folders(root: Path, counts: dict[str, int]) -> Images:
    """So many noisy images of each colour, a folder a colour."""
    for number, (name, count) in enumerate(counts.items()):
        (root / "images" / name).mkdir(parents=True)
        for index in range(count):
            coloured(COLOURS[name.split()[0]], 100 * number + index).save(root / "images" / name / f"{index}.png")
    return open_images(str(root / "images"), root)


def test_colours_are_told_apart(tmp_path: Path) -> None:
    images = folders(tmp_path, {"blue": 6, "green": 5, "red": 7})
    assert neighbours(network(), images, TRANSFORM, CPU) == {"knn9": 100.0}


def test_one_colour_in_two_folders_is_not(tmp_path: Path) -> None:
    """Green is right, and of the blues about every other one."""
    (value,) = neighbours(network(), folders(tmp_path, {"blue": 10, "blue too": 10, "green": 10}), TRANSFORM, CPU).values()
    assert 33 < value < 85


def test_resident_images_and_how_many_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spaced ones, a few at a time, of which every other one is a query; 20 neighbours at most vote."""
    colours = list(COLOURS.values())
    labels = np.repeat(np.arange(3), 30)
    pixels = [torch.from_numpy(np.array(coloured(colours[label], index))).permute(2, 0, 1) for index, label in enumerate(labels)]
    images = Resident(torch.stack(pixels), labels, tuple(COLOURS))
    asked: list[int] = []
    load = Resident.load
    monkeypatch.setattr(Resident, "load", lambda self, number: asked.append(number) or load(self, number))
    monkeypatch.setattr(ibot_training.probe, "AT_ONCE", 7)
    assert neighbours(network(), images, TRANSFORM, CPU) == {"knn20": 100.0}
    assert asked == list(range(90))
    asked.clear()
    monkeypatch.setattr(ibot_training.probe, "MOST", 10)
    assert neighbours(network(), images, TRANSFORM, CPU) == {"knn5": 100.0}
    assert asked == [0, 9, 19, 29, 39, 49, 59, 69, 79, 89]


def test_broken_images_are_left_out(tmp_path: Path) -> None:
    images = folders(tmp_path, {"blue": 6, "green": 6, "red": 6})
    for name in ("blue/3", "green/0"):
        (tmp_path / "images" / f"{name}.png").write_bytes(b"no image")
    assert neighbours(network(), images, TRANSFORM, CPU) == {"knn8": 100.0}


def test_a_class_whose_only_image_is_a_query_is_left_out(tmp_path: Path) -> None:
    """Nothing could name it, and a run must not end for it."""
    assert neighbours(network(), folders(tmp_path, {"blue": 5, "green": 1, "red": 4}), TRANSFORM, CPU) == {"knn5": 100.0}


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_too_few_images_to_compare(tmp_path: Path, broken: int) -> None:
    images = folders(tmp_path, {"blue": 1, "green": 1})
    for name in ("blue", "green")[:broken]:
        (tmp_path / "images" / name / "0.png").write_bytes(b"no image")
    assert neighbours(network(), images, TRANSFORM, CPU) == {}


def test_images_without_classes(photos: Path, tmp_path: Path) -> None:
    assert neighbours(network(), open_images(str(photos), tmp_path), TRANSFORM, CPU) == {}


def test_a_glimpse_of_a_vit_has_three_columns() -> None:
    """Masked crops come first; black and white ones are told apart by their first column."""
    crops = torch.linspace(-1, 1, 10).view(-1, 1, 1, 1).expand(10, 3, 32, 32).contiguous()
    masks = torch.zeros(10, 2, 2, dtype=torch.bool)
    masks[[3, 8], 0, 1] = True
    sheet = np.asarray(glimpse(network(), crops, masks))
    assert sheet.shape == (HEAD + GLIMPSED * (SIDE + GAP), GAP + 3 * (SIDE + GAP), 3)
    tops = [HEAD + row * (SIDE + GAP) for row in range(GLIMPSED)]
    brightness = [int(sheet[top, GAP, 0]) for top in tops]
    wanted = [crops[index, 0, 0, 0].item() for index in (3, 8, 0, 1, 2, 4)]
    assert np.argsort(brightness).tolist() == np.argsort(wanted).tolist()
    hidden = [(sheet[top, GAP + 2 * SIDE, :] == HIDDEN).all() for top in tops]
    assert hidden == [True, True, False, False, False, False]


def test_a_glimpse_of_a_swin_has_no_attention() -> None:
    swin = Swin(patch_size=4, window_size=7, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    sheet = glimpse(swin, torch.randn(2, 3, 64, 64), torch.ones(2, 2, 2, dtype=torch.bool))
    assert sheet.size == (GAP + 2 * (SIDE + GAP), HEAD + 2 * (SIDE + GAP))
