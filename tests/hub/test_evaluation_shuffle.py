"""Pieces go where the order says, each of them once; where all pieces are alike nothing is lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ibot_hub.evaluation.labelled import labelled
from ibot_hub.evaluation.linear_head import LinearHead
from ibot_hub.evaluation.options import ShuffleOptions
from ibot_hub.evaluation.shuffle import GRIDS, shuffle, shuffled_pieces
from ibot_hub.loading import load
from ibot_hub.model import Model
from tests.class_folders import ANIMALS

SMALL = ShuffleOptions(size=64, device="cpu", batch_size=5)


@pytest.mark.parametrize("grid", [(2, 2), (2, 4), (3, 1)])
def test_pieces_go_where_the_order_says(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.normal(size=(2, 3, 12, 8)))
    orders = torch.tensor(np.stack([rng.permutation(grid[0] * grid[1]) for _ in range(2)]))
    moved = shuffled_pieces(images, grid, orders)
    assert moved.shape == images.shape
    height, width = 12 // grid[0], 8 // grid[1]
    for image in range(2):
        for place, piece in enumerate(orders[image].tolist()):
            (row, column), (top, left) = divmod(place, grid[1]), divmod(piece, grid[1])
            found = moved[image, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
            assert torch.equal(found, images[image, :, top * height : (top + 1) * height, left * width : (left + 1) * width])


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


def test_what_a_shuffle_hides_is_lost_and_what_it_leaves_is_not(model: Model, tmp_path: Path) -> None:
    """Plain colours look the same in any order; of the two halves of an image no order is left."""
    for name, colour in ANIMALS.items():
        (tmp_path / "plain" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path / "plain" / name / "0.png")
    for name, first in (("left", 0), ("right", 32)):
        for number in range(20):
            pixels = np.full((64, 64, 3), 90 + number, np.uint8)
            pixels[:, first : first + 32] = 250
            (tmp_path / "halves" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "halves" / name / f"{number}.png")
    reports = {}
    for kind in ("plain", "halves"):
        side = labelled(tmp_path / kind, model, tmp_path / f"{kind}-features", SMALL)
        means = torch.stack([side.features[side.labels == place].mean(dim=0) for place in range(len(side.classes))])
        head = LinearHead(2 * means, -means.square().sum(dim=1), side.classes, 0.1, side.manifest)
        reports[kind] = shuffle(model, head, tmp_path / kind, SMALL)
    assert reports["plain"].grids == tuple(grid for grid in GRIDS if grid != (14, 14))
    assert reports["plain"].grids_left_out == ((14, 14),)
    assert set(reports["plain"].top1) == {100.0}
    assert reports["halves"].top1[0] == 100.0
    assert 25 < np.mean(reports["halves"].top1[3:]) < 75  # 4 x 4 pieces and finer: chance
    assert (reports["halves"].images, reports["halves"].left_out) == (40, 0)
    lines = reports["halves"].table.text().splitlines()
    assert lines[2].split() == ["1", "x", "1", "1", "100.00"]
    assert lines[5].split()[:4] == ["4", "x", "4", "16"]
