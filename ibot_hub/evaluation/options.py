"""What single protocols of an evaluation may be asked, as frozen dataclasses without torch."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ibot_hub.errors import UsageError
from ibot_hub.options import DeviceChoice, DtypeChoice, EvaluationOptions, Options, Pool, Resize, check_mass, option

Select = Literal["held-out", "validation"]
By = Literal["all", "k-means", "head"]
Drop = Literal["random", "salient", "non-salient"]


@dataclass(frozen=True, kw_only=True)
class LogisticOptions(EvaluationOptions):
    """How a logistic regression is trained; every field is an option of `ibot eval logistic`."""

    lambdas: str | None = option(None, "Penalties beside the mean loss, with commas between; default: 0.01,0.1,1 and these over N images.")
    select: Select = option("held-out", "Where the penalty is chosen; validation is the official way, and flatters.")
    held_out: float = option(0.2, "The share of the training images that the penalty is chosen on; then all train the one classifier.")
    seed: int = option(0, "Of what is held out, or drawn.", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out is {self.held_out}; it must be above 0 and below 1.")
        number = r"\d*\.?\d+(e-?\d+)?"
        if self.lambdas is not None and not (re.fullmatch(rf"{number}(,{number})*", self.lambdas) and min(self.penalties) > 0):
            raise UsageError(f"lambdas is {self.lambdas!r}; it must be numbers above 0 with commas between, as in 0.01,0.1.")

    @property
    def penalties(self) -> tuple[float, ...]:
        """The numbers of `lambdas`, largest first; none where it is left open."""
        return tuple(sorted({float(word) for word in (self.lambdas or "").split(",") if word}, reverse=True))


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(EvaluationOptions):
    """How images fall into clusters; every field is an option of `ibot eval cluster`."""

    by: By = option("all", "k-means, the head's most likely pattern, or all: k-means, and the head where the model at hand has one.")
    clusters: int | None = option(None, "Of k-means; default: one a class.", minimum=1)
    seed: int = option(0, "Of k-means.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class SweepOptions(EvaluationOptions):
    """How linear classifiers are trained; every field is an option of `ibot eval parts` and an argument of `ibot_hub.evaluation.linear`."""

    epochs: int = option(100, "Passes over the training images.", minimum=1)
    step_images: int = option(1024, "Images a training step; the official code takes 128 a GPU.", minimum=1)
    select: Select = option("held-out", "Where the learning rate is chosen; validation is the official way, and flatters.")
    held_out: float = option(0.1, "The share of the training images that the rate is chosen on; then all train the one classifier.")
    seed: int = option(0, "Of initial weights, of the order of the images, and of what is held out.", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out is {self.held_out}; it must be above 0 and below 1.")


@dataclass(frozen=True, kw_only=True)
class LinearOptions(SweepOptions):
    """How linear probing is done; every field is an option of `ibot eval linear`."""

    layers: int | None = option(None, "The [CLS] of how many last blocks; default: the paper's, 4 for ViT-S and Swin, 1 above.", minimum=1)
    pool: Pool | None = option(None, "As of extract-features; default: the paper's, cls for ViT-S and Swin, cls+mean above.")
    augment: bool = option(False, "Fresh random crops through the network in every epoch (official), not features computed once: slow.")


@dataclass(frozen=True, kw_only=True)
class OcclusionOptions(EvaluationOptions):
    """How patches are dropped; every field is an option of `ibot eval occlusion`."""

    drop: str = option("random,salient,non-salient", "Which patches go first, with commas between.")
    ratios: str = option("0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1", "Shares that are lost, with commas between; 0 is always measured.")
    seed: int = option(0, "Of the random patches.", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.drops if name not in get_args(Drop)]
        if unknown:
            raise UsageError(f"drop is {self.drop!r}; it must be some of {', '.join(get_args(Drop))}, with commas between.")
        try:
            lost = [float(word) for word in self.ratios.split(",")]
        except ValueError:
            lost = [-1.0]
        if not all(0 <= share <= 1 for share in lost):
            raise UsageError(f"ratios is {self.ratios!r}; it must be shares from 0 to 1 with commas between, as in 0.25,0.5.")

    @property
    def drops(self) -> tuple[Drop, ...]:
        """What `ibot_hub.evaluation.occlusion` takes."""
        return tuple(dict.fromkeys(self.drop.split(",")))  # type: ignore[arg-type]

    @property
    def lost(self) -> tuple[float, ...]:
        """The shares in ascending order, 0 among them."""
        return tuple(sorted({0.0, *(float(word) for word in self.ratios.split(","))}))


@dataclass(frozen=True, kw_only=True)
class ShuffleOptions(EvaluationOptions):
    """How the pieces of images are shuffled; every field is an option of `ibot eval shuffle`."""

    seed: int = option(0, "Of the permutations.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class ReportOptions(EvaluationOptions):
    """How the frozen set is measured; every field is an option of `ibot eval report` and an argument of `ibot_hub.evaluate`."""

    epochs: int = option(100, "Passes of the linear probe over the training features.", minimum=1)
    seed: int = option(0, "Of the linear probe, of k-means, and of what is held out.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class RevisitedOptions(Options):
    """How images of landmarks are seen; every field is an option of `ibot eval revisited`."""

    size: int = option(512, "Pixels of the longer side at most; smaller images stay as they are.", minimum=1)
    dtype: DtypeChoice = option("float32", "Precision of the network; the official one is float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes a CUDA GPU, else MPS, else the CPU.")
    workers: int | None = option(None, "Threads that decode images; default: one a core.", minimum=1)


@dataclass(frozen=True, kw_only=True)
class CopyOptions(Options):
    """How copies are looked for; every field is an option of `ibot eval copy`."""

    size: int = option(224, "Side in pixels to which every image is squashed.", minimum=1)
    depth: int = option(20, "Answers among which an original counts as found.", minimum=1)
    dtype: DtypeChoice = option("float32", "Precision of the network; the official one is float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes a CUDA GPU, else MPS, else the CPU.")
    workers: int | None = option(None, "Threads that decode images; default: one a core.", minimum=1)


@dataclass(frozen=True, kw_only=True)
class PropagationOptions(Options):
    """How masks are carried through a clip; every field is an option of `ibot eval video`."""

    size: int = option(480, "Pixels of the short side; the long one is a multiple of 64 at most as long as the aspect says.", minimum=64)
    frames: int = option(7, "Earlier frames that are asked besides the first.", minimum=0)
    radius: int = option(12, "Rows and columns of patches by which a patch may have moved.", minimum=0)
    neighbours: int = option(5, "Patches of all these frames that a patch takes its mask from.", minimum=1)
    temperature: float = option(0.1, "That similarities are divided by.")
    dtype: DtypeChoice = option("float32", "Precision of the network; the official one is float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes a CUDA GPU, else MPS, else the CPU.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions(Options):
    """How boxes are found; every field is an option of `ibot eval localize`."""

    mass: float = option(0.6, "The strongest patches that hold this share of a map's weight are the object's, 0 to 1.")
    overlap: float = option(0.5, "A box is right that overlaps a given one by this share of their union, 0 to 1.")
    layer: int = option(-1, "The block, from 0 on; negative ones count from the last.")
    size: int = option(480, "Pixels of the short side, or with --resize squash or crop of both, as the network sees the image.", minimum=1)
    resize: Resize = option("keep", "How an image is fitted: keep the aspect, squash, or centre crop, beyond which no box is found.")
    dtype: DtypeChoice = option("float32", "Precision of the network; the official one is float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes a CUDA GPU, else MPS, else the CPU.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mass(self.mass)
        if not 0 < self.overlap <= 1:
            raise UsageError(f"overlap is {self.overlap}; it must be above 0 and at most 1.")


OwnWay = RevisitedOptions | CopyOptions | PropagationOptions | LocalizationOptions  # of protocols that see images in a way of their own
