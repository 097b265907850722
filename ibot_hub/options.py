"""What long operations may be asked, as frozen dataclasses without torch: the only place of each default and its help."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ibot_hub.errors import UsageError

Resize = Literal["crop", "squash", "keep"]
TokenKind = Literal["cls", "patches", "both"]
Pool = Literal["cls", "mean", "cls+mean"]
Format = Literal["parquet", "safetensors", "npy"]
DtypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps"]


def option(default: Any, meaning: str, *, minimum: int | None = None) -> Any:
    """A dataclass field with its default, its one sentence of help and, for numbers, its smallest value."""
    return field(default=default, metadata={"help": meaning, "minimum": minimum})


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How features are extracted; every field is an option of `ibot extract-features` and an argument of `ibot_hub.extract`."""

    tokens: TokenKind = option("cls", "What is kept of an image: one vector (cls), its patch tokens (patches), or both.")
    layers: int = option(1, "How many of the last blocks are kept, each after the final norm, oldest first.", minimum=1)
    pool: Pool = option("cls", "How the one vector is made: [CLS], the mean patch of the last block, or both in a row.")
    size: int | None = option(None, "Side in pixels (with --resize keep: of the short side); default: the model's own.", minimum=1)
    resize: Resize = option("crop", "How an image is fitted: centre crop (official), squash, or keep the aspect.")
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

    def __post_init__(self) -> None:
        for name, spec in type(self).__dataclass_fields__.items():
            value, minimum = getattr(self, name), spec.metadata["minimum"]
            if minimum is not None and value is not None and value < minimum:
                raise UsageError(f"{name} is {value}; it must be at least {minimum}.")
