"""What single protocols of an evaluation may be asked, as frozen dataclasses without torch."""

from dataclasses import dataclass

from ibot_hub.errors import UsageError
from ibot_hub.options import DeviceChoice, DtypeChoice, Options, Resize, check_mass, option


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
