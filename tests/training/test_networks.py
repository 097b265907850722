"""Student and teacher, against the library's own backbone and head with the same weights."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ibot_hub.head import Head, head_like
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT
from ibot_training.networks import Learner, Shown, build_pair
from ibot_training.recipe import Network, ProjectionHead
from ibot_training.recipe_file import load_recipe

VIT = Network(image_size=64, embed_dim=64, depths=(3,), heads=(1,), drop_path=0.4)
SWIN_7 = Network(arch="swin", patch_size=4, embed_dim=8, depths=(2, 1, 1, 1), heads=(1, 1, 2, 2), drop_path=0.4)
SWIN_14 = replace(SWIN_7, window_size=14)
SHARED = ProjectionHead(patterns=12, patch_patterns=12, hidden_dim=16, bottleneck_dim=8)
SEPARATE = replace(SHARED, sharing="separate", patch_patterns=10)
SEMI = replace(SHARED, sharing="semi-shared")
SIZES = {"vit": (64, 32, 48), "swin": (64, 32, 96)}  # pixels; 24, 12, 6 and 3 tokens fill no window of 7 or 14


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def student_of(network: Network, head: ProjectionHead = SHARED, *, student: bool = True) -> Learner:
    """A learner none of whose tensors is 0 or 1."""
    learner = Learner(network, head, student=student)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(learner.named_parameters()):
            noise = normal(*parameter.shape, seed=index)
            if parameter.ndim > 1:
                parameter.copy_(1.5 * noise * (parameter.shape[0] / parameter.numel()) ** 0.5)
            else:
                parameter.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
    return learner


def views_of(network: Network, *, masked: bool = True) -> Shown:
    """Crops of three sizes; masks on the first and the last, of which one image has none; some patches, in no order."""
    crops = [normal(count, 3, size, size, seed=size) for count, size in zip((4, 3, 2), SIZES[network.arch], strict=True)]
    sides = [size // network.cell for size in SIZES[network.arch]]
    masks: list[Tensor | None] = [None] * 3
    if masked:
        masks = [normal(4, sides[0], sides[0], seed=7) > 0, None, normal(2, sides[2], sides[2], seed=8) > 0]
        assert masks[0] is not None
        masks[0][1] = False
    count = sum(len(part) * side**2 for part, side in zip(crops, sides, strict=True))
    return Shown(crops, masks, torch.randperm(count, generator=torch.Generator().manual_seed(1))[:17])


def plainly(learner: Learner, backbone: nn.Module, head: Head, views: Shown) -> tuple[Tensor, Tensor]:
    """Logits by the forward of `ibot_hub`, one size of crops after the other."""
    answers = [
        head(backbone(crops, mask, None if mask is None else learner.mask_token))
        for crops, mask in zip(views.crops, views.masks, strict=True)
    ]
    patches = torch.cat([answer.patches.flatten(0, 2) for answer in answers])
    return torch.cat([answer.cls for answer in answers]), patches[views.wanted]


class Factor(nn.Module):
    """Stochastic depth that is decided: one factor a crop."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        return x * self.values.view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("head", [SHARED, SEPARATE], ids=["shared", "separate"])
@pytest.mark.parametrize("network", [VIT, SWIN_7, SWIN_14], ids=["vit", "swin 7", "swin 14"])
def test_logits_are_those_of_the_library(network: Network, head: ProjectionHead) -> None:
    learner = student_of(network, head)
    for views in (views_of(network), views_of(network, masked=False)):
        with torch.no_grad():
            ours = learner(views)
            theirs = plainly(learner, learner.backbone, learner.head, views)
        assert [tuple(logits.shape) for logits in ours] == [(9, 12), (17, head.patch_patterns)]
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(ours[1], learner(views_of(network))[1], atol=1e-3)  # masks matter


@pytest.mark.parametrize("network", [VIT, SWIN_7], ids=["vit", "swin"])
def test_crops_skip_branches_by_their_drops(network: Network) -> None:
    """Survivors are divided by their probability to survive; the draws of a crop decide for it alone, branch by branch."""
    learner, views = student_of(network), views_of(network)
    depth = sum(network.depths)
    rates = torch.linspace(0, network.drop_path, depth)
    assert learner.drop_rates == pytest.approx(rates.tolist())
    drops = torch.rand(9, 2 * depth, generator=torch.Generator().manual_seed(2))
    drops[:, 2:4] = torch.tensor([rates[1], rates[1] - 1e-3])  # at the rate a branch survives
    factors = torch.where(drops.unflatten(1, (depth, 2)) < rates[:, None], 0.0, 1 / (1 - rates[:, None]))  # [crops, blocks, 2]
    assert 0 < (factors == 0).float().mean() < 0.5

    answers, first = [], 0
    for crops, mask in zip(views.crops, views.masks, strict=True):
        backbone = copy.deepcopy(learner.backbone)
        blocks = [module for module in backbone.modules() if type(module).__name__.endswith("Block")]
        for block, own in zip(blocks, factors[first : first + len(crops)].unbind(1), strict=True):
            block.drop_path1, block.drop_path2 = Factor(own[:, 0]), Factor(own[:, 1])
        with torch.no_grad():
            answers.append(backbone(crops, mask, learner.mask_token))
        first += len(crops)
    with torch.no_grad():
        cls, patches = learner.features(views, drops)
        whole, _ = learner.features(views, None)
    torch.testing.assert_close(cls, torch.cat([answer.cls for answer in answers]), rtol=0, atol=1e-5)
    torch.testing.assert_close(patches, torch.cat([answer.patches.flatten(0, 2) for answer in answers])[views.wanted], rtol=0, atol=1e-5)
    assert not torch.allclose(cls, whole, atol=1e-3)


def test_neither_teacher_nor_a_rate_of_0_drops() -> None:
    for learner in (student_of(VIT, student=False), student_of(replace(VIT, drop_path=0.0)), student_of(replace(VIT, depths=(1,)))):
        views = views_of(VIT, masked=False)
        assert not any(learner.drop_rates)
        with torch.no_grad():
            for one, other in zip(learner(views, torch.zeros(9, 6)[:, : 2 * len(learner.drop_rates)]), learner(views), strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("network", [VIT, SWIN_7], ids=["vit", "swin"])
def test_checkpointing_computes_twice_what_it_does_not_keep(network: Network) -> None:
    learner, views = student_of(network), views_of(network)
    drops = torch.rand(9, 2 * sum(network.depths), generator=torch.Generator().manual_seed(2))
    calls: list[None] = []
    for module in learner.backbone.modules():
        if type(module).__name__.endswith("Block"):
            module.norm1.register_forward_hook(lambda *_: calls.append(None))
    results = []
    for learner.checkpointing in (False, True):
        calls.clear()
        cls, patches = learner(views, drops)
        learner.zero_grad()
        (cls.square().sum() + patches.square().sum()).backward()
        results.append((len(calls), cls, patches, [parameter.grad for parameter in learner.parameters()]))
    assert results[1][0] == 2 * results[0][0]
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2])
    for (name, _), one, other in zip(learner.named_parameters(), results[0][3], results[1][3], strict=True):
        assert one is not None
        assert torch.equal(one, other), name
    calls.clear()
    with torch.no_grad():
        learner(views, drops)
    assert len(calls) == results[0][0]


@pytest.mark.parametrize(
    ("name", "backbone", "head"),
    [
        ("vit_s16", 21_665_664, 7_614_720), ("vit_b16", 85_798_656, 8_401_152), ("vit_l16", 303_301_632, 8_925_440),
        ("swin_t7", 27_519_354, 8_401_152), ("swin_t14", 27_569_754, 8_401_152),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(name: str, backbone: int, head: int) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        student = Learner(recipe.network, recipe.head, student=True)
    assert sum(parameter.numel() for parameter in student.backbone.parameters()) == backbone
    assert sum(parameter.numel() for parameter in student.head.parameters()) == head
    assert student.mask_token is not None
    assert student.mask_token.shape == (1, recipe.network.embed_dim)


def test_a_pair_starts_as_one() -> None:
    student, teacher = build_pair(VIT, SHARED, seed=3)
    assert student.mask_token is not None
    assert not student.mask_token.any()
    assert teacher.mask_token is None
    assert set(student.state_dict()) == {*teacher.state_dict(), "mask_token"}
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in teacher.state_dict().items())
    assert not {id(parameter) for parameter in student.parameters()} & {id(parameter) for parameter in teacher.parameters()}


def test_weights_are_drawn_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one = build_pair(VIT, SHARED, seed=3)[0].state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    again, other = (build_pair(VIT, SHARED, seed=seed)[0].state_dict() for seed in (3, 4))
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not torch.equal(one["backbone.cls_token"], other["backbone.cls_token"])


@pytest.mark.parametrize("std", [0.02, 0.06])
def test_the_blocks_start_as_wide_as_the_recipe_says(std: float) -> None:
    blocks = build_pair(replace(VIT, init_std=std), SHARED, seed=3)[0].backbone.blocks
    weights = [module.weight for module in blocks.modules() if isinstance(module, nn.Linear)]
    assert torch.cat([weight.flatten() for weight in weights]).std().item() == pytest.approx(std, rel=0.02)


def layers_of(learner: Learner) -> set[str]:
    return {name for name in learner.state_dict() if "last_layer" in name}


ONE_LAYER = {"head.last_layer.weight_g", "head.last_layer.weight_v"}
TWO_LAYERS = ONE_LAYER | {"head.last_layer2.weight_g", "head.last_layer2.weight_v"}


def test_separate_layers_for_both() -> None:
    student, teacher = build_pair(VIT, SEPARATE, seed=0)
    assert layers_of(student) == layers_of(teacher) == TWO_LAYERS
    assert student.head.patch_layer.weight_v.shape == teacher.head.patch_layer.weight_v.shape == (10, 8)
    assert torch.equal(student.head.patch_layer.weight_v, teacher.head.patch_layer.weight_v)


def test_a_semi_shared_teacher_starts_from_the_layer_of_the_patches() -> None:
    """Of its two the official code loads that one last."""
    student, teacher = build_pair(VIT, SEMI, seed=0)
    assert (layers_of(student), layers_of(teacher)) == (TWO_LAYERS, ONE_LAYER)
    assert student.head.last_layer2 is not None
    assert torch.equal(teacher.head.last_layer.weight_v, student.head.last_layer2.weight_v)
    assert not torch.equal(teacher.head.last_layer.weight_v, student.head.last_layer.weight_v)
    assert torch.equal(teacher.head.mlp[0].weight, student.head.mlp[0].weight)


@pytest.mark.parametrize("head", [SHARED, SEPARATE], ids=["shared", "separate"])
@pytest.mark.parametrize("network", [VIT, SWIN_7], ids=["vit", "swin"])
def test_its_state_is_that_of_a_model(network: Network, head: ProjectionHead) -> None:
    """Name by name: a backbone of the library, its head, and the mask token."""
    learner = student_of(network, head)
    state = learner.state_dict()
    parts = {part: {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)} for part in ("backbone.", "head.")}
    assert state.keys() - {part + name for part in parts for name in parts[part]} == {"mask_token"}
    shape = {"patch_size": network.patch_size, "embed_dim": network.embed_dim}
    if network.arch == "vit":
        backbone: ViT | Swin = ViT(img_size=network.image_size, depth=3, num_heads=1, **shape)
    else:
        backbone = Swin(window_size=7, depths=network.depths, num_heads=network.heads, **shape)
    backbone.load_state_dict(parts["backbone."])
    own = head_like(parts["head."])
    own.load_state_dict(parts["head."], assign=True)
    views = views_of(network)
    with torch.no_grad():
        for one, other in zip(learner(views), plainly(learner, backbone, own, views), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
