"""A model as the files that the official scripts open: names, prefixes and containers are theirs, and nothing but tensors is pickled."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ibot_hub import weights
from ibot_hub.errors import UsageError
from ibot_hub.formats.contents import contents
from ibot_hub.model import Model
from ibot_hub.naming import to_official
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT


def write_official(model: Model, folder: Path) -> None:
    """Write checkpoint.pth (`teacher` or `student`, with head) and checkpoint_teacher.pth or checkpoint_student.pth (backbone alone).

    The official scripts read the first with `--checkpoint_key teacher` (or student) and the second with `--checkpoint_key state_dict`;
    the correspondence script opens only the second. A network that is not stated is put under `teacher`, where they look first.
    Optimiser, centres and epoch are not there: a run of the official code cannot go on from these files.

    Raises:
        UsageError: a ViT with LayerScale.
    """
    if isinstance(model.backbone, ViT) and model.backbone.layer_scale:
        raise UsageError("The official scripts build no network with LayerScale, which this model has; take --format timm.")
    content = contents(model, "full")
    network = official_network(model)
    backbone = to_official(content.backbone) | _window_tables(model)
    if content.mask_token is not None:
        backbone["masked_embed"] = content.mask_token
    wrapper = "module." if network == "student" else ""  # the official student is wrapped for training on several GPUs
    state = {f"{wrapper}backbone.{name}": tensor for name, tensor in backbone.items()}
    state |= {f"{wrapper}head.{name}": tensor for name, tensor in _official_head(content.head or {}).items()}
    torch.save({network: state}, folder / weights.OFFICIAL)
    torch.save({"state_dict": backbone}, folder / f"checkpoint_{network}.pth")


def official_network(model: Model) -> str:
    """The key that the network is put under."""
    return model.card.network or ("student" if model.mask_token is not None else "teacher")


def _official_head(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official code stores a shared last layer under both names; in the file it lies once."""
    own = {name.replace("last_layer.", "last_layer2."): tensor for name, tensor in head.items() if name.startswith("last_layer.")}
    return own | dict(head)


def _window_tables(model: Model) -> dict[str, Tensor]:
    """A Swin's `relative_position_index` of every block, int64 [window * window, window * window], which the official code stores."""
    if not isinstance(model.backbone, Swin):
        return {}
    return {name: table.cpu() for name, table in model.backbone.named_buffers() if name.endswith("relative_position_index")}
