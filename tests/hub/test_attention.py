"""Attention rows equal the full softmax, and cost no more memory than a forward pass."""

import multiprocessing
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ibot_hub.attention import attention_maps, cls_attention, strongest
from ibot_hub.errors import UsageError
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT

# each measurement has a process of its own, because the high-water mark of memory never sinks
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_hub.attention"])


def peak() -> int:
    """KiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


@torch.no_grad()
def measure(what: str, answer: Connection) -> None:
    """Peak above network and image, of a plain forward or of the maps of all blocks."""
    model = ViT(img_size=224, patch_size=16, embed_dim=384, depth=3, num_heads=6).eval()
    images = torch.randn(1, 3, 1024, 1024)
    model(images[..., :64, :64])  # what the first call of a kernel costs is not the question
    before = peak()
    model(images) if what == "forward" else cls_attention(model, images, range(3))
    answer.send(peak() - before)


def peak_of(what: str) -> int:
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=measure, args=(what, theirs))
    process.start()
    above: int = ours.recv()
    process.join()
    return above


def small_vit() -> ViT:
    torch.manual_seed(0)
    model = ViT(img_size=224, patch_size=16, embed_dim=192, depth=3, num_heads=3).eval()
    for block in model.blocks:  # sharp attention, so that an error in it would show
        nn.init.normal_(block.attn.qkv.weight, std=0.1)
    return model


def full_softmax_rows(model: ViT, images: Tensor) -> list[Tensor]:
    """[B, heads, N] a block, from the whole N x N matrix."""
    tokens, _, _ = model.embed(images)
    rows = []
    for block in model.blocks:
        query, key, _ = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rows.append(torch.softmax(query @ key.transpose(-2, -1) * block.attn.scale, dim=-1)[:, :, 0, 1:])
        tokens = block(tokens)
    return rows


@pytest.mark.parametrize("size", [224, 1024])
@torch.no_grad()
def test_equals_the_full_softmax_row(size: int) -> None:
    model = small_vit()
    assert all(block.attn.fused_attn for block in model.blocks)
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    ours = cls_attention(model, images, (0, 1, 2))
    for row, expected in zip(ours, full_softmax_rows(model, images), strict=True):
        assert row.shape == (1, 3, size // 16, size // 16)
        assert (row.flatten(2) - expected).abs().max().item() <= 1e-6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_peak_memory_is_that_of_a_forward_pass() -> None:
    forward, attention = peak_of("forward"), peak_of("attention")
    assert forward > 10_000
    assert attention < 1.2 * forward


@torch.no_grad()
def test_layers_come_in_the_order_asked() -> None:
    model = small_vit()
    images = torch.randn(2, 3, 64, 96)
    last, first, again = cls_attention(model, images, (-1, 0, 2))
    assert torch.equal(last, again)
    assert not torch.equal(last, first)
    assert last.shape == (2, 3, 4, 6)
    assert cls_attention(model, images, ()) == []


@torch.no_grad()
def test_half_precision_rows_are_softmaxed_in_float32() -> None:
    """Against the row from the same half-precision tokens: what is left is the rounding of the weights that both share."""
    model = small_vit().bfloat16()
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    row = cls_attention(model, images, (0,))[0].flatten(2)
    tokens, _, _ = model.embed(images)
    block = model.blocks[0].float()
    query, key, _ = block.attn.qkv(block.norm1(tokens.float())).unflatten(2, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    expected = torch.softmax(query[:, :, :1] @ key.transpose(-2, -1) * block.attn.scale, dim=-1)[:, :, 0, 1:]
    assert row.dtype == torch.float32
    assert (row - expected).abs().max().item() < 5e-3


def test_gradients_flow() -> None:
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    cls_attention(small_vit(), images, (-1,))[0].max().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_what_does_not_exist_is_refused() -> None:
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(UsageError, match="Layer 3 does not exist; this model has 3 blocks"):
        cls_attention(small_vit(), images, (3,))
    swin = Swin(patch_size=4, window_size=7, embed_dim=16, depths=(2, 2), num_heads=(1, 2))
    with pytest.raises(UsageError, match="no \\[CLS\\]"):
        cls_attention(swin, images, (-1,))


def test_maps_of_an_image_say_where_they_lie(golden: Path, photos: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    path = photos / "two_dogs.jpg"  # upright
    transform = replace(model.transform, size=64, resize="keep")
    maps = attention_maps(model, path, 0, transform=transform)
    assert torch.equal(maps.weights, model.attention(path, 0, transform=transform)[0])
    assert maps.weights.dtype == torch.float32
    assert maps.weights.shape[1:] == (maps.fit.rows, maps.fit.columns)
    assert maps.fit == transform.fit(*decode(path).size)
    assert maps.of == "attention of [CLS]"
    for same in (decode(path), np.asarray(decode(path))):
        assert torch.equal(attention_maps(model, same, 0, transform=transform).weights, maps.weights)
    assert torch.equal(attention_maps(model, path).weights, model.attention(path)[0])
    with pytest.raises(UsageError, match="Layer 99 does not exist"):
        attention_maps(model, path, 99, transform=transform)


def test_a_swin_answers_with_cosines_and_says_so(golden: Path, photos: Path) -> None:
    model = load(golden / "swin_micro_w7_checkpoint.pth")
    transform = replace(model.transform, size=128, resize="keep")
    maps = attention_maps(model, photos / "coffee.jpg", transform=transform)
    patches = model(photos / "coffee.jpg", transform=transform).patches[0].double().numpy()  # [H, W, D]
    mean = patches.mean(axis=(0, 1))
    expected = patches @ mean / np.linalg.norm(patches, axis=-1) / np.linalg.norm(mean)
    assert maps.weights.shape == (1, *expected.shape)
    assert abs(maps.weights[0].numpy() - expected).max() < 1e-5
    assert maps.of == "cosine of each patch with the image's vector, the mean of its patches: a Swin has no [CLS]"
    assert torch.equal(attention_maps(model, photos / "coffee.jpg", model.depth - 1, transform=transform).weights, maps.weights)
    with pytest.raises(UsageError, match="made from its last block"):
        attention_maps(model, photos / "coffee.jpg", 0, transform=transform)
    with pytest.raises(UsageError, match="no \\[CLS\\]"):
        model.attention(photos / "coffee.jpg")


def test_the_strongest_patches_are_the_fewest_that_hold_the_mass() -> None:
    weights = np.array([[0.25, 0.25, 0.2], [0.15, 0.1, 0.05]])
    assert strongest(weights, 0.6).tolist() == [[True, True, True], [False, False, False]]
    assert strongest(weights, 0.4).tolist() == [[True, True, False], [False, False, False]]
    assert strongest(weights, 0.2).tolist() == [[True, True, False], [False, False, False]]  # equal ones go together
    assert strongest(weights, 1.0).all()
