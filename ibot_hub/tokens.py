"""What a backbone answers: one global vector and a map of patch vectors."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Final-norm tokens of a batch; a Swin's `cls` is the mean of its patches."""

    cls: Tensor  # [B, D]
    patches: Tensor  # [B, H, W, D] by row and column
