"""Student (it owns the mask token) and teacher, a slow average of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ibot_hub.backbones import Backbone
from ibot_hub.head import Head
from ibot_hub.swin import Swin, windowed
from ibot_hub.vit import ViT
from ibot_training.packing import Layout, PackedBlock
from ibot_training.recipe import Network, ProjectionHead


@dataclass(frozen=True, eq=False)
class Shown:
    """What a network is shown: crops grouped by size, and which of their patches are wanted."""

    crops: Sequence[Tensor]  # normalised [B_g, 3, S_g, S_g] each
    masks: Sequence[Tensor | None]  # bool [B_g, H_g, W_g] each, True where hidden from the student
    wanted: Tensor  # int64 [M], places in all patches of all groups, one after the other


class Learner(nn.Module):
    """A backbone with its head, as student or teacher.

    Its state dict is that of a model: `backbone.` in timm's names, `head.`, and the student's `mask_token` [1, D].
    """

    def __init__(self, network: Network, head: ProjectionHead, *, student: bool) -> None:
        super().__init__()
        self.backbone = build_backbone(network)
        own_layer = head.sharing == "separate" or (student and head.sharing == "semi-shared")
        self.head = Head(
            self.backbone.num_features, head.patterns, head.patch_patterns if own_layer else None, head.hidden_dim, head.bottleneck_dim
        )
        self.mask_token = nn.Parameter(torch.zeros(1, network.embed_dim)) if student else None
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(student and (head.learn_lengths or not name.endswith("weight_g")))
        blocks = sum(network.depths)
        self.drop_rates = [network.drop_path * index / max(blocks - 1, 1) if student else 0.0 for index in range(blocks)]
        self.checkpointing = False

    def features(self, views: Shown, drops: Tensor | None) -> tuple[Tensor, Tensor]:
        """Final-norm tokens: [CLS] of every crop [crops, D] and the wanted patches [M, D].

        `drops`, uniform [crops, 2 * blocks], says which crops skip which branch (stochastic depth); None: none does.
        """
        scales = self._scales(drops)
        if isinstance(self.backbone, Swin):
            return self._swin_features(self.backbone, views, scales)
        return self._vit_features(self.backbone, views, scales)

    def forward(self, views: Shown, drops: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of [CLS] of every crop [crops, K] and of the wanted patches [M, K]."""
        cls, patches = self.features(views, drops)
        vectors = self.head.bottleneck(torch.cat([cls, patches]))
        return logits_of(self.head, vectors, len(cls))

    def _scales(self, drops: Tensor | None) -> list[Tensor | None]:
        """For each block the factors of its two branches, [2, crops]: 0, or 1 / (probability to survive)."""
        if drops is None:
            return [None] * len(self.drop_rates)
        branches = drops.T.unflatten(0, (-1, 2))  # [blocks, 2, crops]
        return [(own >= rate) / (1 - rate) if rate else None for own, rate in zip(branches, self.drop_rates, strict=True)]

    def _vit_features(self, backbone: ViT, views: Shown, scales: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        rows, groups = [], []
        for crops, mask in zip(views.crops, views.masks, strict=True):
            tokens, _, _ = backbone.embed(crops, mask, self.mask_token if mask is not None else None)  # [B_g, 1 + N_g, D]
            groups.append((tokens.shape[0], tokens.shape[1]))
            rows.append(tokens.flatten(0, 1))
        layout = Layout(tuple(groups))
        x = torch.cat(rows) if len(rows) > 1 else rows[0]  # [all tokens, D]
        for block, factors in zip(backbone.blocks, scales, strict=True):
            x = self._run(block, x, layout, factors)
        firsts = layout.first_rows(x.device)
        chosen = backbone.norm(x[torch.cat([firsts, layout.patch_rows(views.wanted)])])
        return chosen[: len(firsts)], chosen[len(firsts) :]

    def _swin_features(self, backbone: Swin, views: Shown, scales: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        cls, patches, start = [], [], 0
        for crops, mask in zip(views.crops, views.masks, strict=True):
            x = backbone.embed(crops, mask, self.mask_token if mask is not None else None)  # [B_g, h, w, C]
            here = slice(start, start + len(crops))
            index = 0
            for stage in backbone.layers:
                x = stage.downsample(x)
                for block in stage.blocks:
                    factors = scales[index]
                    x = self._run(windowed, block, x, None if factors is None else factors[:, here])
                    index += 1
            x = backbone.norm(x)  # [B_g, H, W, D]
            cls.append(x.mean(dim=(1, 2)))
            patches.append(x.flatten(0, 2))
            start += len(crops)
        return torch.cat(cls), torch.cat(patches)[views.wanted]

    def _run(self, block: Callable[..., Tensor], *arguments: object) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            answer: Tensor = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            return answer
        return block(*arguments)


def logits_of(head: Head, vectors: Tensor, cls_count: int) -> tuple[Tensor, Tensor]:
    """Bottleneck vectors [cls_count + M, d], [CLS] first -> their logits [cls_count, K] and [M, K]."""
    if head.last_layer2 is None:  # one product, and one normalisation of the weights
        logits = head.last_layer(vectors)
        return logits[:cls_count], logits[cls_count:]
    return head.last_layer(vectors[:cls_count]), head.last_layer2(vectors[cls_count:])


def build_backbone(network: Network) -> Backbone:
    """The backbone of a recipe, its weights drawn from torch's generator."""
    if network.arch == "swin":
        return Swin(
            patch_size=network.patch_size, window_size=network.window_size, embed_dim=network.embed_dim,
            depths=network.depths, num_heads=network.heads,
        )  # fmt: skip
    return ViT(
        img_size=network.image_size, patch_size=network.patch_size, embed_dim=network.embed_dim,
        depth=network.depths[0], num_heads=network.heads[0], block_fn=PackedBlock, init_std=network.init_std,
    )  # fmt: skip


def build_pair(network: Network, head: ProjectionHead, seed: int) -> tuple[Learner, Learner]:
    """Student and teacher on the CPU, the teacher a copy: drawn from `seed`, whatever torch's generator holds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Learner(network, head, student=True)
        teacher = Learner(network, head, student=False)
    state = student.state_dict()
    del state["mask_token"]
    if teacher.head.last_layer2 is None and student.head.last_layer2 is not None:
        # semi-shared: the official teacher starts from the layer that is loaded second, then follows the first
        for name in ("weight_g", "weight_v"):
            state[f"head.last_layer.{name}"] = state.pop(f"head.last_layer2.{name}")
    teacher.load_state_dict(state)
    return student, teacher
