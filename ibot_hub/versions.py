"""The versions of what computes, as a run or a folder of features writes them down."""

import platform

import PIL
import timm
import torch

import ibot_hub


def versions() -> dict[str, str]:
    """By name: this package, what it computes with, and Python."""
    return {
        "ibot-hub": ibot_hub.__version__, "torch": torch.__version__, "timm": timm.__version__, "pillow": PIL.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
