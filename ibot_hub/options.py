"""What long operations may be asked, as frozen dataclasses without torch: the only place of each default and its help."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ibot_hub.errors import UsageError

Resize = Literal["crop", "squash", "keep"]
TokenKind = Literal["cls", "patches", "both"]
Pool = Literal["cls", "mean", "cls+mean"]
Format = Literal["parquet", "safetensors", "npy"]
DtypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]
Similarity = Literal["dot", "cosine"]
Of = Literal["images", "patches"]
Rank = Literal["auto", "attention", "similarity"]
Heads = Literal["all", "mean"] | Sequence[int]
Confidence = Literal["logit", "probability"]
ExportFormat = Literal["timm", "transformers", "onnx", "official"]


def option(default: Any, meaning: str, *, minimum: int | None = None) -> Any:
    """A dataclass field with its default, its one sentence of help and, for numbers, its smallest value."""
    return field(default=default, metadata={"help": meaning, "minimum": minimum})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every options class checks of its values."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for spec in fields(self):
            value, minimum, hint = getattr(self, spec.name), spec.metadata["minimum"], hints[spec.name]
            if minimum is not None and value is not None and value < minimum:
                raise UsageError(f"{spec.name} is {value}; it must be at least {minimum}.")
            if value is None and type(None) in get_args(hint):
                continue
            choices = [choice for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for choice in get_args(kind)]
            if choices and value not in choices:
                raise UsageError(f"{spec.name} is {value!r}; it must be one of {', '.join(choices)}.")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(Options):
    """How features are extracted; every field is an option of `ibot extract-features` and an argument of `ibot_hub.extract`."""

    tokens: TokenKind = option("cls", "What is kept of an image: one vector (cls), its patch tokens (patches), or both.")
    layers: int = option(1, "How many of the last blocks are kept, each after the final norm, oldest first.", minimum=1)
    pool: Pool = option("cls", "How the one vector is made: [CLS], the mean patch of the last block, or both in a row.")
    size: int | None = option(None, "Side in pixels (with --resize keep: of the short side); default: the model's own.", minimum=1)
    resize: Resize | None = option(None, "How an image is fitted: crop (centre), squash, or keep its aspect; default: the model's own.")
    mean: tuple[float, float, float] | None = option(None, "Mean of red, green and blue in 0..1, in place of the model's own.")
    std: tuple[float, float, float] | None = option(None, "Standard deviation of red, green and blue, in place of the model's own.")
    dtype: DtypeChoice = option("auto", "Precision of the network; auto is bfloat16 where that is fast, else float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes every CUDA GPU, else MPS, else the CPU.")
    batch_size: int | None = option(None, "Images a forward pass; default 8 on a CPU, 128 on a GPU.", minimum=1)
    format: Format = option("parquet", "Format of the shards.")
    shard_size: int | None = option(None, "Images of the source a shard covers; default 1000, with patches 100.", minimum=1)
    limit: int | None = option(None, "Only the first N images of the source.", minimum=1)
    part: str | None = option(None, "Only part I of N (I/N, from 0): shard k goes to part k mod N; default: from RANK or Slurm.")
    workers: int | None = option(None, "Threads that decode images; default: one a core.", minimum=1)
    overwrite: bool = option(False, "Start again: remove what an earlier run left in OUT.")
    strict: bool = option(False, "Exit with 1 if any image could not be read.")


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Options):
    """How attention maps are made and drawn; every field is an option of `ibot attention`."""

    size: int = option(480, "Pixels of the short side, or with --resize squash or crop of both, as the network sees the image.", minimum=1)
    resize: Resize = option("keep", "How an image is fitted: keep the aspect, squash to a square (official), or centre crop.")
    mass: float = option(0.6, "The strongest patches that hold this share of a head's weight are coloured, 0 to 1.")
    layer: int = option(-1, "The block, from 0 on; negative ones count from the last.")
    heads: str = option("all", "Attention heads: all, their mean, or numbers from 0 on, as in 0,3,5.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mass(self.mass)
        if not re.fullmatch(r"all|mean|\d+(,\d+)*", self.heads):
            raise UsageError(f"heads is {self.heads!r}; it must be all, mean, or numbers from 0 on with commas between, as in 0,3,5.")

    @property
    def chosen_heads(self) -> Heads:
        """What `ibot_hub.draw.attention` takes."""
        if self.heads in ("all", "mean"):
            return "all" if self.heads == "all" else "mean"
        return tuple(int(number) for number in self.heads.split(","))


def check_mass(mass: float) -> None:
    """Raises UsageError unless `mass` is a share."""
    if not 0 < mass <= 1:
        raise UsageError(f"mass is {mass}; it must be above 0 and at most 1.")


@dataclass(frozen=True, kw_only=True)
class MatchOptions(Options):
    """How patches are matched; every field is an option of `ibot match`, and the first four are arguments of `ibot_hub.match`."""

    count: int = option(12, "How many pairs are kept, the strongest.", minimum=1)
    mutual: bool = option(False, "Only pairs that are each other's best.")
    similarity: Similarity = option("dot", "Of two tokens: their dot product (official), or their cosine.")
    rank: Rank = option("auto", "What makes a pair strong: [CLS] attention (the paper) or similarity; auto is the first but for a Swin.")
    size: int | None = option(None, "Side in pixels (with --resize keep: of the short side); default: the model's own.", minimum=1)
    resize: Resize = option("keep", "How two images are fitted: keep the aspect and crop nothing, squash (official), or centre crop.")


@dataclass(frozen=True, kw_only=True)
class ViewsOptions(Options):
    """How partners across two views of one image are measured; every field is an option of `ibot eval correspondence`."""

    seed: int = option(0, "Of the views: the same seed, the same views.", minimum=0)
    size: int | None = option(None, "Side of a view in pixels; default: the model's own.", minimum=1)
    similarity: Similarity = option("dot", "Of two tokens: their dot product (official), or their cosine.")
    radius: int = option(0, "Rows and columns by which a partner may be off and still count as right.", minimum=0)
    limit: int | None = option(None, "Only the first N images of the source.", minimum=1)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """How the images of an evaluation are seen; every field is an option of the commands of `ibot eval` that take class folders."""

    size: int | None = option(None, "Side in pixels (with --resize keep: of the short side); default: the model's own.", minimum=1)
    resize: Resize = option("crop", "How an image is fitted: centre crop (official), squash, or keep the aspect.")
    dtype: DtypeChoice = option("float32", "Precision of the network; the official one is float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes every CUDA GPU, else MPS, else the CPU.")
    batch_size: int | None = option(None, "Images a forward pass; default 8 on a CPU, 128 on a GPU.", minimum=1)
    workers: int | None = option(None, "Threads that decode images; default: one a core.", minimum=1)


@dataclass(frozen=True, kw_only=True)
class ComponentsOptions(Options):
    """How components are found; every field is an option of `ibot components` and an argument of `ibot_hub.components`."""

    size: int | None = option(None, "Side in pixels (with --resize keep: of the short side); default: that of 28 patches.", minimum=1)
    resize: Resize = option("keep", "How an image is fitted: centre crop, squash, or keep the aspect and crop nothing.")
    background: bool = option(False, "Colour every patch, by the components of all; else those of the foreground, by its own.")


@dataclass(frozen=True, kw_only=True)
class IndexOptions(Options):
    """What an index is of; every field is an option of `ibot index` and an argument of `ibot_hub.build_index`."""

    of: Of = option("images", "What is found: images by their one vector, or patches.")
    kind: str = option("exact", "exact, hnsw (fast among millions, nearly exact), or a word of faiss, such as IVF4096,SQ8 (small too).")


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """How an index is asked; the defaults of `ibot search` and of `ibot_hub.search`."""

    k: int = option(10, "How many are found.", minimum=1)
    per_image: int = option(1, "Of patches: how many of one image at most.", minimum=1)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What is written; the option of `ibot export` and the default of `ibot_hub.export`."""

    format: ExportFormat = option("timm", "Whose files are written: those of timm, transformers, ONNX, or the official code.")


@dataclass(frozen=True, kw_only=True)
class PatternOptions(Options):
    """How an atlas of patterns is found; every field is an option of `ibot patterns find` and an argument of `ibot_hub.find_patterns`."""

    of: Literal["patches", "cls"] = option("patches", "What goes to patterns: patches, or whole images by their [CLS] (cls).")
    members: int = option(36, "Members that a layout shows; of patches twice as many are kept, since dark ones are not shown.", minimum=1)
    per_image: int = option(1, "Patches that a pattern takes from one image; the paper takes one, few images ask for more.", minimum=1)
    confidence: Confidence = option("logit", "What decides: the raw logit (official), or the probability after centre and temperature.")
    temperature: float = option(0.07, "That the logits less their centre are divided by; the teacher's in training is 0.07.")
    pictures: int = option(0, "Carry pictures of the N largest patterns in the atlas, which then shows them without the images.", minimum=0)
    picture_size: int = option(80, "Side of such a picture in pixels.", minimum=8)
    size: int | None = option(None, "Side in pixels (with --resize keep: of the short side); default: the model's own.", minimum=1)
    resize: Resize | None = option(None, "How an image is fitted: crop (centre), squash, or keep its aspect; default: the model's own.")
    dtype: DtypeChoice = option("auto", "Precision of the network; auto is bfloat16 where that is fast, else float32.")
    device: DeviceChoice = option("auto", "Where the network runs; auto takes a CUDA GPU, else MPS, else the CPU.")
    batch_size: int | None = option(None, "Images a forward pass; default 8 on a CPU, 128 on a GPU.", minimum=1)
    limit: int | None = option(None, "Only the first N images of the source.", minimum=1)
    workers: int | None = option(None, "Threads that decode images; default: one a core.", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """How a model is published; every field is an option of `ibot push` and an argument of `ibot_hub.push`."""

    private: bool = option(False, "Only you and those you name see the repository.")
    dry_run: bool = option(False, "Send nothing; list what would be sent.")
    licence: str = option("", "Of the weights, such as Apache-2.0; default: the catalogue's, else the card says that none is stated.")
    data: str = option("", "What it was trained on, such as ImageNet-1K; default: the catalogue's, else the card says that none is stated.")
