"""A sheet shows each crop as it is, with what is hidden, and where [CLS] looks."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ibot_hub.attention import cls_attention
from ibot_hub.colours import VIRIDIS
from ibot_hub.draw.sheet import FONT, GAP, PAPER
from ibot_hub.images import ImageTransform, decode
from ibot_hub.vit import ViT
from ibot_training.pictures import HIDDEN, SIDE, picture

HEAD = FONT + 2 * GAP  # pixels above the first row


def cell(sheet: npt.NDArray[np.uint8], row: int, column: int) -> npt.NDArray[np.uint8]:
    """[SIDE, SIDE, 3]"""
    top, left = HEAD + row * (SIDE + GAP), GAP + column * (SIDE + GAP)
    return sheet[top : top + SIDE, left : left + SIDE]


@pytest.fixture(scope="module")
def crops(photos: Path) -> torch.Tensor:
    transform = ImageTransform()
    return torch.stack([transform(decode(photos / name)) for name in ("cat_chelsea.jpg", "coffee.jpg")])


def test_crops_and_what_is_hidden(crops: torch.Tensor, photos: Path) -> None:
    masks = torch.zeros(2, 14, 14, dtype=torch.bool)
    masks[0, 3:5, 7:10] = True
    sheet = np.asarray(picture(crops, masks, None))
    assert sheet.shape == (HEAD + 2 * (SIDE + GAP), GAP + 2 * (SIDE + GAP), 3)
    for row, name in enumerate(("cat_chelsea.jpg", "coffee.jpg")):
        expected = ImageTransform().pixels(decode(photos / name)).permute(1, 2, 0).numpy()
        assert np.array_equal(cell(sheet, row, 0), expected)
    hidden = np.zeros((SIDE, SIDE), dtype=bool)
    hidden[48:80, 112:160] = True
    assert (cell(sheet, 0, 1)[hidden] == HIDDEN).all()
    assert np.array_equal(cell(sheet, 0, 1)[~hidden], cell(sheet, 0, 0)[~hidden])
    assert np.array_equal(cell(sheet, 1, 1), cell(sheet, 1, 0))


def test_labels_stand_above_their_columns(crops: torch.Tensor) -> None:
    sheet = np.asarray(picture(crops[:1], torch.zeros(1, 14, 14, dtype=torch.bool), torch.rand(1, 3, 14, 14)))
    ink = (sheet[:HEAD] != PAPER).any(axis=(0, 2))
    for column in range(3):
        middle = GAP + column * (SIDE + GAP) + SIDE // 2
        assert ink[middle - 15 : middle + 15].any()
    assert not ink[:GAP].any()


def test_small_crops_fill_their_cells() -> None:
    """A 64-pixel crop with cells of 8 pixels; black is what normalisation makes of it."""
    black = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 7, 0] = True
    sheet = np.asarray(picture(black.view(1, 3, 1, 1).expand(1, 3, 64, 64), masks, None))
    assert (cell(sheet, 0, 0) == 0).all()
    assert (cell(sheet, 0, 1)[196:, :28] == HIDDEN).all()
    assert (cell(sheet, 0, 1)[:196] == 0).all()
    assert (cell(sheet, 0, 1)[:, 28:] == 0).all()


def test_attention_goes_from_blue_to_yellow() -> None:
    """On a grey crop nothing but the colours of the weights is seen."""
    attention = torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16)
    attention[0, 0, 1, 2] = 0.5  # of one head alone; the mean is half of it
    seen = cell(np.asarray(picture(torch.zeros(1, 3, 64, 64), torch.zeros(1, 8, 8, dtype=torch.bool), attention)), 0, 2).astype(int)
    grey = seen[0, 0] - 0.6 * VIRIDIS[0]
    assert np.ptp(grey) < 2
    assert abs(seen[56 + 28, 112 + 28] - grey - 0.6 * VIRIDIS[-1]).max() < 8
    assert seen[..., 0].argmax() in np.ravel_multi_index(np.mgrid[80:88, 136:144].reshape(2, -1), (SIDE, SIDE))
    assert np.ptp(seen[168:].reshape(-1, 3), axis=0).max() == 0


def test_even_attention_is_drawn() -> None:
    sheet = picture(torch.zeros(1, 3, 64, 64), torch.zeros(1, 8, 8, dtype=torch.bool), torch.full((1, 2, 8, 8), 1 / 64))
    assert np.ptp(cell(np.asarray(sheet), 0, 2), axis=(0, 1)).max() == 0


@torch.no_grad()
def test_the_maps_of_a_network_are_drawn(crops: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = ViT(img_size=224, patch_size=16, embed_dim=48, depth=1, num_heads=3).eval()
    (attention,) = cls_attention(network, crops, (-1,))
    sheet = np.asarray(picture(crops, torch.ones(2, 14, 14, dtype=torch.bool), attention))
    assert (cell(sheet, 0, 1) == HIDDEN).all()
    assert len(np.unique(cell(sheet, 0, 2).reshape(-1, 3), axis=0)) > 1000
