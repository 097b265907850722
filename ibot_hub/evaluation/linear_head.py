"""A linear classifier in one file, with its classes and what made the features that it reads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.features.store import Manifest
from ibot_hub.writing import whole

KEY = "ibot_hub"  # of the metadata: classes, rate and manifest, as JSON


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Features of one model, prepared in one way -> classes."""

    weight: Tensor  # [C, F] float32 on the CPU
    bias: Tensor  # [C]
    classes: tuple[str, ...]  # C names
    rate: float  # that it was trained with
    manifest: Manifest  # of the features it was trained on: model, weights, layers, pool, preprocessing

    def logits(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, C] in float32, on the features' device."""
        features = features.float()
        return F.linear(features, self.weight.to(features.device), self.bias.to(features.device))

    def check(self, weights: str, preprocessing: Mapping[str, Any]) -> None:
        """Raises UsageError unless the head was trained on features of the model with this digest, from images prepared in this way."""
        if weights != self.manifest.weights:
            network = f", {self.manifest.network} network" if self.manifest.network else ""
            raise UsageError(
                f"The head was trained on features of {self.manifest.model} ({self.manifest.arch}{network}), whose weights are others; "
                "take that model, or train a head on this one's with `ibot eval linear`."
            )
        trained, now = (json.loads(json.dumps(dict(one))) for one in (self.manifest.preprocessing, preprocessing))  # lists or tuples
        apart = [f"{key} {trained[key]}, now {value}" for key, value in now.items() if trained[key] != value]
        if apart:
            raise UsageError(f"The head was trained on images prepared otherwise: {'; '.join(apart)}; say the same --size and --resize.")

    def save(self, file: Path) -> None:
        """Write a safetensors file, whole or not at all, in a folder that is made. Raises StoreError where it cannot be written."""
        facts = json.dumps({"classes": self.classes, "rate": self.rate, "manifest": asdict(self.manifest)})
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        with whole(file) as partial:
            partial.write_bytes(safetensors.torch.save(tensors, {KEY: facts}))


def open_head(file: str | Path) -> LinearHead:
    """What `save` wrote. Raises StoreError where there is no such file, or it is another one."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            facts = json.loads((opened.metadata() or {})[KEY])
            weight, bias = opened.get_tensor("weight"), opened.get_tensor("bias")
        classes = tuple(facts["classes"])
        if weight.shape[:1] != bias.shape or len(classes) != len(bias):
            raise ValueError(f"{len(classes)} classes, weights {list(weight.shape)} and biases {list(bias.shape)}")
        return LinearHead(weight, bias, classes, facts["rate"], Manifest.from_json(json.dumps(facts["manifest"])))
    except FileNotFoundError as error:
        raise StoreError(f"There is no {file}; `ibot eval linear` writes a head.") from error
    except (safetensors.SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{file} is no head that `ibot eval linear` wrote, such as OUT/linear.safetensors ({error}).") from error
