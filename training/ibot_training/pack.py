"""The teacher of a run becomes a file small enough to ship with the package."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub import weights
from ibot_hub.errors import IBotError, WeightsError
from ibot_hub.hub.answers import answers_beside, save_answers
from ibot_hub.hub.record import sha256
from ibot_hub.loading import load

MOST_BYTES = 20_000_000  # of the file
LEAST_COSINE = 0.999  # of a token with its own in float32
IMAGES = 16  # of noise, on which the tokens are compared


@dataclass(frozen=True)
class Packed:
    """What was written."""

    size: int  # bytes
    sha256: str
    cosine: float  # of the token, [CLS] or patch, that changed most


def pack(run: Path, file: Path) -> Packed:
    """Write the teacher of `run`, backbone and head, in float16, and its answers beside; where that cannot be done, all stays as it was.

    Raises:
        WeightsError: `run` holds no teacher with its head, float16 is too narrow or too coarse for it, or the file would be too large.
    """
    teacher = weights.read(run, "teacher", True)
    half = replace(teacher, backbone=_half(run, teacher.backbone), head=_half(run, teacher.head or {}))
    with TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder) / file.name
        weights.save(half, partial)
        size, cosine = partial.stat().st_size, least_cosine(run, partial)
        if size > MOST_BYTES:
            raise WeightsError(f"{run} takes {size:,} bytes in float16, more than {MOST_BYTES:,}; to ship, train a smaller recipe.")
        if cosine < LEAST_COSINE:
            raise WeightsError(
                f"{run}: in float16 a token has a cosine of {cosine:.4f} with its own, below {LEAST_COSINE}; it cannot ship."
            )
        answers = answers_beside(partial)
        save_answers(load(partial, "teacher"), answers)
        for written in (partial, answers):
            written.chmod(0o644)  # safetensors lets nobody else read what it writes
            written.replace(file.with_name(written.name))
    return Packed(size, sha256(file), cosine)


def _half(run: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    most = torch.finfo(torch.float16).max
    wide = [name for name, tensor in tensors.items() if tensor.abs().max() > most]
    if wide:
        raise WeightsError(f"{run}: tensor {wide[0]!r} holds numbers above {most:.0f}, too wide for float16; it cannot ship.")
    return {name: tensor.half() for name, tensor in tensors.items()}


@torch.no_grad()
def least_cosine(first: Path, second: Path) -> float:
    """The least cosine of a token of the one network with its own of the other, both computed in float32, on noise; a fixed seed."""
    networks = [load(path, "teacher") for path in (first, second)]
    size = networks[0].transform.size
    noise = np.random.default_rng(0).standard_normal((IMAGES, 3, size, size), dtype=np.float32)
    one, other = (network(torch.from_numpy(noise)) for network in networks)
    return min(F.cosine_similarity(a, b, dim=-1).min().item() for a, b in ((one.cls, other.cls), (one.patches, other.patches)))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ibot_training.pack", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("file", type=Path, help="the safetensors file to write")
    options = parser.parse_args(words)
    try:
        packed = pack(options.run, options.file)
    except IBotError as error:
        sys.exit(f"pack: {error}")
    print(f"{options.file}: {packed.size:,} bytes, every token within a cosine of {packed.cosine:.6f} of float32")
    print(f"sha256 for the catalogue: {packed.sha256}")


if __name__ == "__main__":
    main()
