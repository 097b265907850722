"""What single protocols of an evaluation may be asked, as frozen dataclasses without torch."""

import re
from dataclasses import dataclass
from typing import Literal

from ibot_hub.errors import UsageError
from ibot_hub.options import EvaluationOptions, option

Select = Literal["held-out", "validation"]
By = Literal["all", "k-means", "head"]


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
