"""What stands beside one network in the file or folder of a run: the other network, and the centres of the official loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ibot_hub import weights
from ibot_hub.errors import WeightsError

NETWORKS = ("teacher", "student")
Centres = tuple[Tensor, Tensor]  # of [CLS] [K] and of the patches [K of patches], float32


def networks(path: Path) -> tuple[str, ...]:
    """The networks that a file or folder names, teacher first; none where there is one alone that may not even have a name.

    Raises:
        WeightsError: an official checkpoint that cannot be read.
    """
    if path.is_dir():
        exported = tuple(name for name in NETWORKS if (path / f"{name}.safetensors").is_file())
        if exported:
            return exported
    content = _official(path)
    return tuple(name for name in NETWORKS if isinstance(content.get(name), dict))


def read_centres(path: Path) -> Centres | None:
    """The centres in an official full checkpoint (a file, or the folder it is in); None where there is none.

    Raises:
        WeightsError: the file cannot be read, or what it holds in their place is something else.
    """
    buffers = _official(path).get("ibot_loss")
    if buffers is None:
        return None
    try:
        cls, patch = (buffers[name].detach().float().flatten().clone() for name in ("center", "center2"))  # [1, K] and [1, 1, K]
    except (LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} holds an ibot_loss without the tensors center and center2; fetch it again.") from error
    if not (torch.isfinite(cls).all() and torch.isfinite(patch).all()):
        raise WeightsError(f"{path}: the centres in ibot_loss hold NaN or infinite values; the file is damaged or its training diverged.")
    return cls, patch


def _official(path: Path) -> Mapping[Any, Any]:
    """The outermost names of an official checkpoint; nothing where it is another container."""
    if path.is_dir() and not (path / "config.json").is_file():
        path = path / weights.OFFICIAL
    if not path.is_file() or not weights.is_pickle(path):
        return {}
    content = weights.unpickled(path)
    return content if isinstance(content, dict) else {}
