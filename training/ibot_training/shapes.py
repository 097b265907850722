"""The shape of networks and heads in the words of a recipe, of a recipe or of a model, and where two differ."""

from collections.abc import Mapping
from typing import Any

from ibot_hub.errors import TrainingError
from ibot_hub.head import Head
from ibot_hub.model import Model
from ibot_hub.swin import Swin
from ibot_training.recipe import Recipe

Shape = Mapping[str, object]  # keys of a recipe -> what their numbers would have to be


def shape_of_recipe(recipe: Recipe) -> Shape:
    """What decides which tensors its networks and heads have."""
    network, head = recipe.network, recipe.head
    size = {"network.image_size": network.image_size} if network.arch == "vit" else {"network.window_size": network.window_size}
    own = {} if head.sharing == "shared" else {"head.patch_patterns": head.patch_patterns}
    return {
        "network.arch": network.arch, **size, "network.patch_size": network.patch_size, "network.embed_dim": network.embed_dim,
        "network.depths": network.depths, "network.heads": network.heads, "head.patterns": head.patterns, "head.sharing": head.sharing,
        **own, "head.hidden_dim": head.hidden_dim, "head.bottleneck_dim": head.bottleneck_dim,
    }  # fmt: skip


def shape_of_model(student: Model, teacher: Model) -> Shape:
    """What a recipe for these two networks, both with a head, would have to say."""
    backbone: Any = student.backbone
    one, other = _head(student), _head(teacher)
    if isinstance(backbone, Swin):
        blocks = [stage.blocks for stage in backbone.layers]
        size = {"network.window_size": blocks[0][0].window_size[0]}
        depths, heads = tuple(map(len, blocks)), tuple(stage[0].attn.num_heads for stage in blocks)
        patch = backbone.patch_embed.patch_size[0]
    else:
        size = {"network.image_size": backbone.patch_embed.img_size[0]}
        depths, heads, patch = (len(backbone.blocks),), (backbone.blocks[0].attn.num_heads,), backbone.patch
    sharing = "shared" if one.last_layer2 is None else "semi-shared" if other.last_layer2 is None else "separate"
    own = {} if one.last_layer2 is None else {"head.patch_patterns": len(one.last_layer2.weight_g)}
    return {
        "network.arch": "swin" if isinstance(backbone, Swin) else "vit", **size, "network.patch_size": patch,
        "network.embed_dim": backbone.embed_dim, "network.depths": depths, "network.heads": heads,
        "head.patterns": len(one.last_layer.weight_g), "head.sharing": sharing, **own,
        "head.hidden_dim": one.mlp[0].out_features, "head.bottleneck_dim": one.last_layer.weight_v.shape[1],
    }  # fmt: skip


def check_shape(name: str, shape: Shape, recipe: Recipe) -> None:
    """Raises TrainingError, with every key that would have to be another, where the recipe makes other networks than `name` has."""
    wanted = shape_of_recipe(recipe)
    keys = [key for key in wanted if key in shape and shape[key] != wanted[key]]
    if keys:
        theirs, ours = (", ".join(f"{key}={_in_toml(numbers[key])}" for key in keys) for numbers in (shape, wanted))
        raise TrainingError(f"{name} has {theirs} where the recipe {recipe.name} has {ours}; --set what differs, or take another recipe.")


def _in_toml(number: object) -> object:
    return list(number) if isinstance(number, tuple) else number


def _head(model: Model) -> Head:
    if model.head is None:
        raise ValueError("a start has a head")
    return model.head
