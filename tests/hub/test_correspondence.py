"""Partners are the best by brute force, and matches lie where the patches do."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ibot_hub.correspondence
from ibot_hub.correspondence import match, pair_up, partner_map, whole
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.fit import whole_fit
from ibot_hub.images import ImageTransform
from ibot_hub.loading import load
from ibot_hub.model import Card, Model
from ibot_hub.options import Resize, Similarity
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT

PATCH = 8


@pytest.fixture(scope="module")
def blind_to_place() -> Model:
    """A ViT whose position table is zero: its tokens move along with the patches, so partners are known."""
    torch.manual_seed(0)
    network = ViT(img_size=64, patch_size=PATCH, embed_dim=64, depth=2, num_heads=2).eval()
    nn.init.zeros_(network.pos_embed)
    for block in network.blocks:  # sharp enough for patches to differ in the attention they get
        nn.init.normal_(block.attn.qkv.weight, std=0.1)
    return Model(network, None, None, ImageTransform(64, patch=PATCH), Card("blind", "ViT-64x2/8", None))


def tiles(rows: int, columns: int) -> np.ndarray:
    """A patch each in one colour of its own, uint8 [rows * 8, columns * 8, 3]."""
    colours = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return colours.repeat(PATCH, 0).repeat(PATCH, 1)


def places(rows: int, columns: int) -> np.ndarray:
    return np.stack(np.mgrid[:rows, :columns], axis=-1)


def test_an_image_is_its_own_partner(blind_to_place: Model) -> None:
    image = tiles(8, 12)
    found = partner_map(blind_to_place, image, image, similarity="cosine")
    assert np.array_equal(found.partners, places(8, 12))
    assert found.mutual.all()
    assert found.similarities == pytest.approx(1, abs=1e-5)


def test_mirrored_patches_are_found_in_the_mirror(blind_to_place: Model) -> None:
    image = tiles(8, 12)
    found = match(blind_to_place, image, np.ascontiguousarray(image[:, ::-1]), count=96)
    assert found.rank == "attention"
    assert found.second[:, 0] == pytest.approx(96 - found.first[:, 0])
    assert found.second[:, 1] == pytest.approx(found.first[:, 1])
    assert len(np.unique(found.first_patches, axis=0)) == 96


def test_shifted_patches_are_found_where_they_went(blind_to_place: Model) -> None:
    image = tiles(8, 12)
    found = partner_map(blind_to_place, image, np.roll(image, (2 * PATCH, -3 * PATCH), (0, 1)))
    assert np.array_equal(found.partners, (places(8, 12) + np.array([2, -3])) % (8, 12))


def test_the_strongest_by_attention_of_the_first_image_come_first(blind_to_place: Model) -> None:
    first, second = tiles(8, 12), tiles(8, 12)[:, ::-1].copy()
    attention = blind_to_place.attention(first, transform=whole(blind_to_place))[0].mean(0).flatten()
    found = match(blind_to_place, first, second)
    assert len(found.scores) == 12
    order = attention.argsort(descending=True)[:12]
    assert np.array_equal(found.first_patches, np.stack(np.divmod(order.numpy(), 12), 1))
    assert found.scores == pytest.approx(attention[order].numpy())
    by_similarity = match(blind_to_place, first, second, 5, rank="similarity")
    every = partner_map(blind_to_place, first, second).similarities
    assert by_similarity.rank == "similarity"
    assert by_similarity.scores.tolist() == sorted(every.flatten().tolist(), reverse=True)[:5]
    assert np.array_equal(by_similarity.scores, by_similarity.similarities)


def brute_force(first: Tensor, second: Tensor, similarity: Similarity) -> tuple[list[tuple[int, int]], list[bool]]:
    """Patch by patch in float64."""
    one, other = (tokens.double().flatten(0, 1) for tokens in (first, second))
    if similarity == "cosine":
        one, other = (tokens / tokens.norm(dim=1, keepdim=True) for tokens in (one, other))
    partners, mutual = [], []
    for token in range(len(one)):
        scores = [float(one[token].dot(candidate)) for candidate in other]
        best = scores.index(max(scores))
        partners.append(divmod(best, second.shape[1]))
        back = [float(candidate.dot(other[best])) for candidate in one]
        mutual.append(back.index(max(back)) == token)
    return partners, mutual


@pytest.mark.parametrize("similarity", get_args(Similarity))
@pytest.mark.parametrize("chunk", [1, 100, 2**24])
def test_partners_are_the_best_by_brute_force(similarity: Similarity, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of grids of different shapes, whatever the number of rows that are compared at a time."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(rows, columns, 4, generator=generator) for rows, columns in ((5, 4), (3, 7)))
    second *= torch.arange(1, 4).view(3, 1, 1)  # lengths differ, so that dot product and cosine do
    monkeypatch.setattr(ibot_hub.correspondence, "CHUNK", chunk)
    found = pair_up(first, second, whole_fit(80, 100, (32, 40), PATCH), whole_fit(70, 30, (56, 24), PATCH), similarity=similarity)
    partners, mutual = brute_force(first, second, similarity)
    assert [tuple(partner) for partner in found.partners.reshape(-1, 2)] == partners
    assert found.mutual.flatten().tolist() == mutual
    assert 0 < sum(mutual) < len(mutual)


def test_mutual_keeps_pairs_that_are_each_others_best(golden: Path, photos: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    pair = photos / "graf1.jpg", photos / "graf3.jpg"
    forth, back = partner_map(model, *pair), partner_map(model, *pair[::-1])
    kept = match(model, *pair, count=10_000, mutual=True)
    for patch, partner in zip(kept.first_patches, kept.second_patches, strict=True):
        assert np.array_equal(back.partners[tuple(partner)], patch)
    both = [patch for patch in np.ndindex(forth.mutual.shape) if tuple(back.partners[tuple(forth.partners[patch])]) == patch]
    assert len(kept.scores) == len(both) > 0
    everything = match(model, *pair, count=10_000)  # more than there are
    assert len(everything.scores) == forth.mutual.size > len(both)


@pytest.mark.parametrize("resize", get_args(Resize))
def test_points_are_in_pixels_of_the_images_as_given(blind_to_place: Model, resize: Resize) -> None:
    """A spot that no other patch resembles, at known pixels of two grey images of different sizes and aspects."""
    spots = {(120, 300): (70, 130), (200, 90): (110, 40)}  # size: centre of the spot
    images = []
    for size, (x, y) in spots.items():
        image = Image.effect_noise(size, 20).convert("RGB")
        image.paste((255, 0, 0), (x - 25, y - 25, x + 25, y + 25))
        images.append(image)
    transform = replace(blind_to_place.transform, resize=resize)
    found = partner_map(blind_to_place, *images, similarity="cosine", transform=transform)
    start = found.first.patch_at(*spots[120, 300])
    assert start is not None
    end = found.second.centres()[tuple(found.partners[start])]
    assert np.abs(end - spots[200, 90]).max() < 25
    everything = match(blind_to_place, *images, count=1000, similarity="cosine", transform=transform)
    index = everything.first_patches.tolist().index(list(start))
    assert np.abs(everything.first[index] - spots[120, 300]).max() <= 300 / 8
    assert np.array_equal(everything.second[index], end)


def test_nothing_is_cropped_unless_asked(blind_to_place: Model) -> None:
    found = match(blind_to_place, np.zeros((64, 256, 3), np.uint8), tiles(8, 8), count=1000)
    assert found.first.min(0) == pytest.approx([4, 4])
    assert found.first.max(0) == pytest.approx([252, 60])


def test_a_swin_has_no_attention_and_is_ranked_by_similarity() -> None:
    torch.manual_seed(0)
    network = Swin(patch_size=4, window_size=7, embed_dim=16, depths=(2, 2), num_heads=(1, 2)).eval()
    model = Model(network, None, None, ImageTransform(64, patch=8), Card("swin", "Swin", None))
    found = match(model, tiles(8, 8), tiles(8, 8), similarity="cosine")
    assert found.rank == "similarity"
    assert np.array_equal(found.first_patches, found.second_patches)
    with pytest.raises(UsageError, match="no \\[CLS\\]"):
        match(model, tiles(8, 8), tiles(8, 8), rank="attention")


def test_half_precision_is_compared_in_float32() -> None:
    """Two candidates that a product in bfloat16 would hold for equal."""
    fit = whole_fit(16, 8, (16, 8), PATCH)
    first = torch.tensor([[[256.0, 1.0], [256.0, 0.0]]]).bfloat16()
    second = torch.tensor([[[1.0, 0.0], [1.0, 0.5]]]).bfloat16()
    found = pair_up(first, second, fit, fit)
    assert found.partners[0].tolist() == [[0, 1], [0, 0]]
    assert found.similarities[0].tolist() == [256.5, 256]


def test_what_cannot_be_is_refused(blind_to_place: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="count is 0; it must be at least 1"):
        match(blind_to_place, tiles(8, 8), tiles(8, 8), count=0)
    with pytest.raises(UsageError, match="similarity is 'angle'; it must be one of dot, cosine"):
        partner_map(blind_to_place, tiles(8, 8), tiles(8, 8), similarity="angle")  # type: ignore[arg-type]
    (tmp_path / "words.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"words\.jpg: no image"):
        match(blind_to_place, tiles(8, 8), tmp_path / "words.jpg")
