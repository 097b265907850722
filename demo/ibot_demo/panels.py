"""Pictures in, a picture out, with the Python and the command that give the same one; no Gradio in it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import Any

import numpy as np
from PIL import Image

from ibot_hub.attention import ATTENTION, attention_maps
from ibot_hub.correspondence import match, partner_map, strongest, whole
from ibot_hub.draw.attention import draw_attention
from ibot_hub.draw.components import draw_components
from ibot_hub.draw.matches import draw_matches
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.matching import match_views
from ibot_hub.images import ImageTransform
from ibot_hub.model import Model
from ibot_hub.options import AttentionOptions, ComponentsOptions, Heads, MatchOptions
from ibot_hub.pca import components as find_components
from ibot_hub.pca import components_transform
from ibot_hub.swin import Swin

MAX_PATCHES = 12_000  # of one picture: attention has the square of it in numbers


@dataclass(frozen=True)
class Photo:
    """A picture, and the file it came from."""

    name: str  # of the file, as its owner calls it
    image: Image.Image  # RGB


@dataclass(frozen=True, eq=False)
class Shown:
    """What a panel answers."""

    picture: Image.Image
    says: str  # in words, one or two sentences
    python: str  # writes the same picture
    command: str  # the same; "" where no command does


def attention(model: Model, photo: Photo, *, layer: int, heads: Heads, mass: float, size: int) -> Shown:
    """What [CLS] attends to in one block: image, overlay, one map a head (Fig. 6, 18)."""
    if not heads:
        raise UsageError("No attention head is ticked; tick one at least.")
    options = AttentionOptions(size=size, mass=mass, layer=layer, heads=heads if isinstance(heads, str) else ",".join(map(str, heads)))
    transform = replace(model.transform, size=options.size, resize=options.resize)
    check_patches(transform, photo)
    maps = attention_maps(model, photo.image, layer, transform=transform)
    picture = draw_attention(photo.image, maps, mass=mass, heads=heads)
    says = f"Block {layer % model.depth} of {model.depth}, {maps.fit.rows} x {maps.fit.columns} patches."
    if maps.of != ATTENTION:
        says += f" Shown is the {maps.of}."
    python = f"""
        from dataclasses import replace

        import ibot_hub
        from ibot_hub.draw.attention import draw_attention

        model = ibot_hub.load({model.card.name!r})
        photo = {photo.name!r}
        transform = replace(model.transform, size={size}, resize={options.resize!r})
        maps = ibot_hub.attention_maps(model, photo, layer={layer}, transform=transform)
        draw_attention(photo, maps, mass={mass}, heads={heads!r}).save("attention.png")
    """
    words = ["ibot", "attention", photo.name, "--size", size, "--mass", mass, "--layer", layer, "--heads", options.heads]
    return Shown(picture, says, code(python), _words(words, model, "attention.png"))


def correspondence(model: Model, first: Photo, second: Photo, *, count: int, mutual: bool) -> Shown:
    """The strongest of the pairs that the patches of one picture make with their best partners in another (Fig. 19)."""
    for photo in (first, second):
        check_patches(whole(model), photo)
    matches = match(model, first.image, second.image, count, mutual=mutual)
    picture = draw_matches(matches, first.image, second.image)
    says = f"{len(matches.scores)} pairs, strongest {matches.rank} first. Click a patch of the first picture to see its partner."
    python = f"""
        import ibot_hub
        from ibot_hub.draw.matches import draw_matches
        from ibot_hub.images import decode

        model = ibot_hub.load({model.card.name!r})
        first, second = decode({first.name!r}), decode({second.name!r})
        matches = ibot_hub.match(model, first, second, count={count}, mutual={mutual})
        draw_matches(matches, first, second).save("matches.png")
    """
    words = ["ibot", "match", first.name, second.name, "--count", count, *(["--mutual"] if mutual else [])]
    return Shown(picture, says, code(python), _words(words, model, "matches.png"))


def partner(model: Model, first: Photo, second: Photo, point: tuple[float, float]) -> Shown:
    """The partner of the patch that lies at `point`, (x, y) in pixels of the first picture."""
    for photo in (first, second):
        check_patches(whole(model), photo)
    partners = partner_map(model, first.image, second.image)
    place = at(partners.first.patch_at(*point))
    chosen = np.zeros_like(partners.mutual)
    chosen[place] = True
    matches = strongest(model, first.image, partners, 1, among=chosen)
    picture = draw_matches(matches, first.image, second.image)
    row, column = (int(number) for number in partners.partners[place])
    back = "which takes it for its best too" if partners.mutual[place] else "whose own best is another"
    says = f"Patch (row {place[0]}, column {place[1]}) goes to (row {row}, column {column}), {back}."
    python = f"""
        import ibot_hub
        import numpy as np
        from ibot_hub.correspondence import partner_map, strongest
        from ibot_hub.draw.matches import draw_matches
        from ibot_hub.images import decode

        model = ibot_hub.load({model.card.name!r})
        first, second = decode({first.name!r}), decode({second.name!r})
        partners = partner_map(model, first, second)
        chosen = np.zeros_like(partners.mutual)
        chosen[partners.first.patch_at{point!r}] = True
        matches = strongest(model, first, partners, 1, among=chosen)
        draw_matches(matches, first, second).save("partner.png")
    """
    return Shown(picture, says, code(python), "")


def views(model: Model, photo: Photo, *, seed: int, count: int, mutual: bool) -> Shown:
    """Two augmented views of one picture, matched; which pairs are right is known."""
    options = MatchOptions(count=count, mutual=mutual)
    found = match_views(model, photo.image, seed, options)
    picture = draw_matches(found.matches, found.views.first.image, found.views.second.image, right=found.right.tolist())
    share = found.overlap.share
    overlap = (
        "The two views do not overlap; try another seed." if share is None else f"Of all patches of the overlap {share:.0%} are right."
    )
    says = f"{found.right.sum()} of {len(found.right)} pairs are right: blue; wrong ones are vermilion and dashed. {overlap}"
    python = f"""
        import ibot_hub
        from ibot_hub.draw.matches import draw_matches
        from ibot_hub.evaluation.matching import match_views
        from ibot_hub.options import MatchOptions

        model = ibot_hub.load({model.card.name!r})
        found = match_views(model, {photo.name!r}, {seed}, MatchOptions(count={count}, mutual={mutual}))
        views = found.views
        draw_matches(found.matches, views.first.image, views.second.image, right=found.right.tolist()).save("views.png")
    """
    words = ["ibot", "match", "--views", photo.name, "--seed", seed, "--count", count, *(["--mutual"] if mutual else [])]
    return Shown(picture, says, code(python), _words(words, model, "views.png"))


def component_colours(model: Model, photos: Sequence[Photo], *, background: bool) -> Shown:
    """The first three principal components of all the pictures' patches as colours."""
    for photo in photos:
        check_patches(components_transform(model, ComponentsOptions()), photo)
    images = [photo.image for photo in photos]
    found = find_components(model, images, background=background)
    names = [photo.name for photo in photos]
    picture = draw_components(images, found.maps, names)
    shares = ", ".join(f"{share:.0%}" for share in found.basis.explained.tolist())
    says = f"Red, green and blue hold {shares} of the variance of {'all patches' if background else 'the foreground'}."
    python = f"""
        import ibot_hub
        from ibot_hub.draw.components import draw_components
        from ibot_hub.images import decode

        model = ibot_hub.load({model.card.name!r})
        names = {names!r}
        images = [decode(name) for name in names]
        found = ibot_hub.components(model, images, background={background})
        draw_components(images, found.maps, names).save("components.png")
    """
    words = ["ibot", "components", *names, *(["--background"] if background else [])]
    return Shown(picture, says, code(python), _words(words, model, "components.png"))


def heads_of(model: Model) -> int:
    """How many attention maps an image has."""
    if isinstance(model.backbone, Swin):
        return 1
    first: Any = model.backbone.blocks[0]  # a Sequential of timm's has no types
    return int(first.attn.num_heads)


def check_patches(transform: ImageTransform, photo: Photo) -> None:
    """Raises `UsageError` where the picture would have more patches than the page computes with."""
    fit = transform.fit(*photo.image.size)
    if fit.rows * fit.columns > MAX_PATCHES:
        raise UsageError(
            f"{photo.name} would have {fit.rows} x {fit.columns} patches, and {MAX_PATCHES:,} are the most here; "
            "take fewer pixels, or a picture that is less long."
        )


def at(place: tuple[int, int] | None) -> tuple[int, int]:
    """The (row, column) that was clicked; raises `UsageError` where the network sees nothing."""
    if place is None:
        raise UsageError("The network does not see this part of the picture; click nearer to its centre.")
    return place


def code(text: str) -> str:
    return dedent(text).strip() + "\n"


def _words(words: Sequence[object], model: Model, out: str) -> str:
    return shlex.join([str(word) for word in [*words, "--model", model.card.name, "-o", out]])
