"""Entry points of `torch.hub`: `torch.hub.load("org/ibot-hub", "vit_b16")` is `ibot_hub.load("vit_b16")`."""

from collections.abc import Callable as _Callable  # what has no underscore would be listed as a model
from typing import Any as _Any

import ibot_hub

dependencies = [
    "filelock", "huggingface_hub", "lazy_loader", "numpy", "packaging", "PIL", "platformdirs", "pyarrow", "requests", "safetensors",
    "timm", "torch", "torchvision", "tqdm", "urllib3",
]  # fmt: skip
load = ibot_hub.load  # a file, a folder, or "hf-hub:org/name"


def _entry(name: str) -> _Callable[..., ibot_hub.Model]:
    def entry(**options: _Any) -> ibot_hub.Model:
        return ibot_hub.load(name, **options)

    facts = ibot_hub.info(name)
    entry.__name__ = name
    entry.__doc__ = f"{facts.arch}, {facts.data}: `ibot_hub.load({name!r}, network=None, head=None, device=None, dtype=None)`."
    return entry


globals().update({name: _entry(name) for name in ibot_hub.list_models()})
