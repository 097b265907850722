"""Assigning in pieces gives what all logits at once give."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ibot_hub.head import Head
from ibot_hub.patterns import assignment
from ibot_hub.patterns.assignment import assigner, head_digest


def head_of(patterns: int, patch_patterns: int | None = None) -> Head:
    torch.manual_seed(0)
    head = Head(24, patterns, patch_patterns, hidden_dim=32, bottleneck_dim=16).eval()
    for layer in head.mlp:  # else all tokens look alike to an untrained head
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    return head


def tokens_of(*shape: int) -> Tensor:
    return torch.randn(*shape, 24, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_equals_the_highest_of_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "TOKENS", 50)
    head, tokens = head_of(2500), tokens_of(3, 6, 7)  # three pieces of patterns, three of tokens
    expected = head.patch_logits(tokens).max(dim=-1)
    found = assigner(head, "patches")(tokens)
    assert torch.equal(found.patterns, expected.indices)
    assert found.confidences.shape == (3, 6, 7)
    assert (found.confidences - expected.values).abs().max().item() < 1e-6
    assert len(found.patterns.unique()) > 50


@torch.no_grad()
def test_probability_is_the_softmax_after_centre_and_temperature() -> None:
    head, tokens = head_of(2500), tokens_of(40)
    centre = torch.randn(2500, generator=torch.Generator().manual_seed(2)) * 0.2
    expected = ((head.patch_logits(tokens) - centre) / 0.07).softmax(dim=-1).max(dim=-1)
    found = assigner(head, "patches", centre, 0.07)(tokens)
    assert torch.equal(found.patterns, expected.indices)
    torch.testing.assert_close(found.confidences, expected.values, rtol=1e-4, atol=1e-6)
    assert not torch.equal(found.patterns, assigner(head, "patches")(tokens).patterns)


@torch.no_grad()
def test_patches_and_cls_go_through_their_own_layer() -> None:
    """A DINO head has one layer, which serves for both."""
    tokens = tokens_of(30)
    own = head_of(80, patch_patterns=120)
    assert torch.equal(assigner(own, "patches")(tokens).patterns, own.patch_logits(tokens).argmax(dim=-1))
    assert torch.equal(assigner(own, "cls")(tokens).patterns, own.cls_logits(tokens).argmax(dim=-1))
    dino = head_of(80)
    assert torch.equal(assigner(dino, "patches")(tokens).patterns, dino.cls_logits(tokens).argmax(dim=-1))


@torch.no_grad()
def test_of_equal_patterns_the_first_is_taken() -> None:
    head = head_of(3000)
    head.last_layer.weight_v[:] = head.last_layer.weight_v[0]
    assert assigner(head, "patches")(tokens_of(5)).patterns.tolist() == [0] * 5


@torch.no_grad()
def test_half_precision_confidences_are_told_apart() -> None:
    head, tokens = head_of(300).bfloat16(), tokens_of(400).bfloat16()
    found = assigner(head, "patches")(tokens)
    coarse = head.patch_logits(tokens).max(dim=-1).values
    assert len(coarse.unique()) < 150
    assert len(found.confidences.unique()) > 390
    assert (found.confidences - coarse.float()).abs().max().item() < 0.01


@torch.no_grad()
def test_nan_is_not_hidden() -> None:
    head = head_of(40)
    head.mlp[0].bias[0] = torch.nan
    assert assigner(head, "patches")(tokens_of(3)).confidences.isnan().all()
    assert assigner(head, "patches", torch.zeros(40), 0.07)(tokens_of(3)).confidences.isnan().all()


@torch.no_grad()
def test_the_mean_of_logits_needs_no_logits() -> None:
    head, tokens = head_of(90), tokens_of(500)
    mean = assigner(head, "patches").mean_logits(head.bottleneck(tokens).mean(dim=0))
    torch.testing.assert_close(mean, head.patch_logits(tokens).mean(dim=0))


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that was made."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        self.count = max(
            self.count, *(part.numel() for part in (answer if isinstance(answer, tuple | list) else [answer]) if isinstance(part, Tensor))
        )
        return answer


@pytest.mark.parametrize("centre", [None, torch.zeros(65_536)])
def test_the_logits_of_65536_patterns_are_never_there_at_once(centre: Tensor | None) -> None:
    assign, tokens = assigner(head_of(65_536), "patches", centre, 0.07), tokens_of(600)
    with Largest() as largest:
        assign(tokens)
    assert largest.count <= max(assign.rows.numel(), assignment.TOKENS * assignment.PATTERNS) < 600 * 65_536 / 8


def test_a_head_and_its_copy_in_bfloat16_have_one_digest() -> None:
    head = head_of(50, patch_patterns=60)
    digests = [head_digest(head, "patches"), head_digest(head, "cls")]
    assert digests[0] != digests[1]
    assert [head_digest(head_of(50, 60).bfloat16(), of) for of in ("patches", "cls")] == digests
    with torch.no_grad():
        head.last_layer.weight_v[3, 4] += 1
    assert head_digest(head, "patches") == digests[0]
    assert head_digest(head, "cls") != digests[1]
