"""Every number of a run: frozen dataclasses, whose defaults are the paper's ViT-S/16."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Pair = tuple[float, float]
FIXED = frozenset({"seed", "precision", "resident"})  # of [run]: the others change nothing that is learned, and may change later


def number(default: Any, meaning: str, **bounds: float) -> Any:
    """A field with its default, its meaning in one sentence, and its bounds: `least` and `most` included, `above` and `below` not."""
    return field(default=default, metadata={"meaning": meaning, "bounds": bounds})


@dataclass(frozen=True, kw_only=True)
class Network:
    """The backbone."""

    arch: Literal["vit", "swin"] = number("vit", "vit or swin")
    image_size: int = number(224, "side in pixels that the position table is made for (ViT)", least=1)
    patch_size: int = number(16, "side of a patch in pixels; of a Swin, of its first stage", least=1)
    embed_dim: int = number(384, "width of the tokens; of a Swin, in its first stage", least=1)
    depths: tuple[int, ...] = number((12,), "number of blocks; of a Swin, one number a stage", least=1)
    heads: tuple[int, ...] = number((6,), "number of attention heads; of a Swin, one number a stage", least=1)
    window_size: int = number(7, "side of a window in tokens (Swin)", least=1)
    init_std: float = number(0.02, "standard deviation of the first weights of a ViT's blocks; 0.02 is small for a narrow one", above=0)
    drop_path: float = number(0.1, "stochastic depth of the student's last block, rising linearly from 0", least=0, below=1)

    @property
    def cell(self) -> int:
        """Side in pixels of what a mask hides as one: a patch; of a Swin, as large as it is in the last stage."""
        return self.patch_size << (len(self.depths) - 1)


@dataclass(frozen=True, kw_only=True)
class ProjectionHead:
    """The head that student and teacher put on the backbone: the online tokenizer."""

    patterns: int = number(8192, "K for [CLS]", least=2)
    patch_patterns: int = number(8192, "K for patches, where sharing is not `shared`", least=2)
    sharing: Literal["shared", "separate", "semi-shared"] = number(
        "shared", "last layer of [CLS] and patches: one; two; or two in the student and one in the teacher (Table 17)"
    )
    hidden_dim: int = number(2048, "width of the multilayer perceptron", least=1)
    bottleneck_dim: int = number(256, "width of the vector that is L2-normalised", least=1)
    learn_lengths: bool = number(True, "whether the lengths of the last layer's rows are trained (the official norm_last_layer=False)")


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How many views of an image there are, and how large."""

    global_count: int = number(2, "global crops; the teacher sees these alone", least=1)
    global_size: int = number(224, "side of a global crop in pixels", least=1)
    global_scale: Pair = number((0.25, 1.0), "share of the image's area that a global crop covers, from and to", above=0, most=1)
    local_count: int = number(10, "local crops; 0 for the two-crop variants", least=0)
    local_size: int = number(96, "side of a local crop in pixels", least=1)
    local_scale: Pair = number((0.05, 0.25), "share of the image's area that a local crop covers, from and to", above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to a crop; the order is that of the fields."""

    flip: float = number(0.5, "probability of mirroring", least=0, most=1)
    jitter: float = number(0.8, "probability of changing brightness, contrast, saturation and hue, in random order", least=0, most=1)
    brightness: float = number(0.4, "largest relative change", least=0)
    contrast: float = number(0.4, "largest relative change", least=0)
    saturation: float = number(0.2, "largest relative change", least=0)
    hue: float = number(0.1, "largest shift, in turns of the colour circle", least=0, most=0.5)
    grey: float = number(0.2, "probability of losing colour", least=0, most=1)
    blur: tuple[float, float, float] = number(
        (1.0, 0.1, 0.5), "probability of blurring the first global crop, the others, a local one", least=0, most=1
    )
    blur_radius: Pair = number((0.1, 2.0), "standard deviation of the blur in pixels, from and to", least=0)
    solarise: tuple[float, float, float] = number(
        (0.0, 0.2, 0.0), "probability of inverting bright pixels, for the same three", least=0, most=1
    )
    pipeline: Literal["auto", "reference", "batched"] = number(
        "auto", "Pillow image by image as in the official code, or batches on the device; auto is batched on a GPU or with resident images"
    )


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What is hidden from the student."""

    shape: Literal["block", "random"] = number("block", "blocks, or single patches")
    ratios: tuple[float, ...] = number((0.0, 0.3), "prediction ratios, of which one is drawn for each view (Fig. 11)", least=0, most=1)
    spreads: tuple[float, ...] = number((0.0, 0.2), "largest deviation from each ratio", least=0, most=1)
    crops: Literal["globals", "one global", "all"] = number("globals", "the crops that are masked (Fig. 7: b, d, c)")
    start_epoch: int = number(0, "epochs without masks at the beginning", least=0)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Self-distillation of [CLS] across views and of hidden patches within a view."""

    cls_weight: float = number(1.0, "weight of the [CLS] loss", least=0)
    patch_weight: float = number(1.0, "weight of the patch loss", least=0)
    student_temperature: float = number(0.1, "sharpening of the student", above=0)
    warmup_temperature: float = number(0.04, "sharpening of the teacher at the start, [CLS] and patches", above=0)
    cls_temperature: float = number(0.07, "sharpening of the teacher's [CLS] after the warm-up", above=0)
    patch_temperature: float = number(0.07, "sharpening of the teacher's patches after the warm-up", above=0)
    warmup_epochs: int = number(30, "epochs over which the temperatures rise", least=0)
    centring: bool = number(True, "whether the teacher's [CLS] logits are centred")
    patch_centring: bool = number(True, "whether the teacher's patch logits are centred (Table 18)")
    centre_momentum: float = number(0.9, "of the centre of [CLS]", least=0, most=1)
    patch_centre_momentum: float = number(0.9, "of the centre of the patches", least=0, most=1)
    hard_labels: bool = number(False, "whether the patches' targets are the most likely pattern alone (Table 18)")


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW, its schedules, and the teacher's average."""

    epochs: int = number(800, "passes over the images", least=1)
    batch_size: int = number(1024, "images a step, over all processes and accumulated parts", least=1)
    lr: float = number(5e-4, "learning rate at its height, for 256 images a step; it grows in proportion to batch_size", above=0)
    min_lr: float = number(1e-6, "learning rate at the end, not scaled", least=0)
    warmup_epochs: float = number(10.0, "epochs over which the learning rate rises from 0", least=0)
    weight_decay: float = number(0.04, "weight decay at the start", least=0)
    weight_decay_end: float = number(0.4, "weight decay at the end", least=0)
    clip: float = number(3.0, "largest norm of a gradient; 0 leaves it as it is", least=0)
    clip_by: Literal["tensor", "global"] = number("tensor", "whether the norm is that of each tensor, or of all together")
    freeze_last_layer: int = number(1, "epochs in which the head's last layer does not move", least=0)
    momentum: float = number(0.996, "of the teacher, an average of the student, at the start", least=0, most=1)
    momentum_end: float = number(1.0, "of the teacher at the end", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How it is computed, and what is kept; nothing here changes what is learned, but for precision and seed."""

    seed: int = number(0, "of weights, order, crops, masks and dropped paths", least=0, below=2**63)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = number("auto", "of products; auto is bfloat16 where that is fast")
    parallel: Literal["ddp", "fsdp"] = number("ddp", "weights whole on each GPU, or in shards (for ViT-L)")
    accumulate: int = number(1, "parts in which a batch is computed, one after the other", least=1)
    checkpointing: bool = number(False, "compute activations twice instead of keeping them")
    compile: bool = number(False, "torch.compile of the blocks")
    workers: int = number(0, "threads that decode and augment; 0 is one a core", least=0)
    resident: int = number(
        0, "keep all images decoded on the device, squashed to squares of this side; 0 reads them anew each time", least=0
    )
    log_every: int = number(10, "steps from one line of metrics.jsonl to the next", least=1)
    save_every: float = number(1.0, "epochs from one checkpoint to the next; Ctrl-C and SIGTERM save too", above=0)
    keep: int = number(2, "checkpoints that are kept beside those of keep_every", least=1)
    keep_every: int = number(40, "epochs from one checkpoint that stays to the next; 0: none stays", least=0)
    knn_every: int = number(0, "epochs from one k-NN of the teacher to the next; needs classes; 0: none", least=0)
    picture_every: int = number(0, "epochs from one picture of masks and attention to the next; 0: none", least=0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A value: a variant is a difference, and a run writes down the one it ran."""

    name: str
    summary: str = ""
    notes: str = ""  # where sources disagree or say nothing
    inferred: tuple[str, ...] = ()  # keys whose numbers no source states for this run
    network: Network = Network()
    head: ProjectionHead = ProjectionHead()
    crops: Crops = Crops()
    augmentation: Augmentation = Augmentation()
    masks: Masks = Masks()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    run: Run = Run()

    @property
    def effective_epochs(self) -> float:
        """Passes over the images times the global crops that one image is worth (Appendix B, which rounds 3.84 to 4)."""
        crops = self.crops
        return self.optimiser.epochs * (crops.global_count + crops.local_count * (crops.local_size / crops.global_size) ** 2)


def differences(one: Recipe, other: Recipe) -> list[tuple[str, object, object]]:
    """Keys whose numbers differ in what is learned, with both numbers."""
    found = []
    for section in fields(Recipe):
        ours, theirs = getattr(one, section.name), getattr(other, section.name)
        if is_dataclass(ours):
            for key in (spec.name for spec in fields(ours)):
                pair = getattr(ours, key), getattr(theirs, key)
                if pair[0] != pair[1] and (section.name != "run" or key in FIXED):
                    found.append((f"{section.name}.{key}", *pair))
    return found
