"""Panels that ask a collection: the patterns of an atlas, the neighbours in an index."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ibot_demo.panels import Photo, Shown, at, check_patches, code
from ibot_demo.workspace import PICTURES
from ibot_hub.draw.hits import draw_hits
from ibot_hub.draw.patterns import draw_composition, draw_pattern
from ibot_hub.errors import UsageError
from ibot_hub.features.extraction import extract
from ibot_hub.model import Model
from ibot_hub.options import SearchOptions
from ibot_hub.patterns.atlas import PatternAtlas, embedded_atlas
from ibot_hub.patterns.finding import check_head, compose, find_patterns
from ibot_hub.retrieval.index import Index
from ibot_hub.retrieval.indexing import build_index
from ibot_hub.retrieval.neighbours import search

PER_IMAGE = 6  # patches that a pattern takes from one picture; a person has few of these


@dataclass(frozen=True, eq=False)
class Atlas:
    """An atlas, and how one comes by it."""

    atlas: PatternAtlas
    file: str | None  # its name in the command; None: the one that ships, which needs none
    python: str  # the expression that gives it
    imports: str
    making: str = ""  # the command that makes the file


def shipped() -> Atlas:
    """The atlas that comes with the embedded model."""
    return Atlas(embedded_atlas(), None, "embedded_atlas()", "from ibot_hub.patterns.atlas import embedded_atlas")


def of_pictures(model: Model, folder: Path) -> Atlas:
    """The atlas of a workspace's pictures."""
    atlas = find_patterns(model, folder / PICTURES, per_image=PER_IMAGE)
    making = shlex.join(
        ["ibot", "patterns", "find", PICTURES, "--per-image", str(PER_IMAGE), "--model", model.card.name, "-o", "atlas.parquet"]
    )
    python = f"find_patterns(model, {PICTURES!r}, per_image={PER_IMAGE})"
    return Atlas(atlas, "atlas.parquet", python, "from ibot_hub.patterns.finding import find_patterns", making + "\n")


def of_file(atlas: PatternAtlas, name: str) -> Atlas:
    """An atlas that a person opened."""
    if atlas.centre is not None or atlas.facts.of != "patches":
        raise UsageError(f"{name} was found with --confidence probability or --of cls; the page shows patches by raw logits.")
    return Atlas(atlas, name, f"open_atlas({name!r})", "from ibot_hub.patterns.atlas import open_atlas")


def pattern(model: Model, photo: Photo, atlas: Atlas, point: tuple[float, float]) -> Shown:
    """The layout of the pattern that the patch at `point`, (x, y) in pixels of the picture, belongs to (Fig. 4)."""
    _check(model, photo, atlas.atlas)
    transform = atlas.atlas.transform
    row, column = at(transform.fit(*photo.image.size).patch_at(*point))
    found = model.pattern_ids(photo.image, transform=transform)
    number, confidence = int(found.ids[0, row, column]), float(found.confidences[0, row, column])
    size = int(atlas.atlas.sizes[number])
    if not size:
        raise UsageError(f"Patch (row {row}, column {column}) is of pattern {number}, which gathered nothing in this atlas.")
    says = f"Patch (row {row}, column {column}) is of pattern {number}, with a logit of {confidence:.2f}; {size} patches of the atlas are."
    python = f"""
        import ibot_hub
        {atlas.imports}
        from ibot_hub.draw.patterns import draw_pattern
        from ibot_hub.images import decode

        model = ibot_hub.load({model.card.name!r}, head=True)
        atlas = {atlas.python}
        photo = decode({photo.name!r})
        row, column = atlas.transform.fit(*photo.size).patch_at{point!r}
        patterns = model.pattern_ids(photo, transform=atlas.transform)
        draw_pattern(atlas, int(patterns.ids[0, row, column])).save("pattern.png")
    """
    command = shlex.join(["ibot", "patterns", "show", *([atlas.file] if atlas.file else []), "--pattern", str(number), "-o", "pattern.png"])
    return Shown(draw_pattern(atlas.atlas, number), says, code(python), atlas.making + command)


def _check(model: Model, photo: Photo, atlas: PatternAtlas) -> None:
    """Raises `UsageError` unless the atlas fits the model, whatever it says of itself, and the picture both."""
    check_head(atlas, model)
    patterns = model.head.patch_layer.weight_v.shape[0] if model.head else 0
    if len(atlas.sizes) != patterns or atlas.transform.patch != model.transform.patch:
        raise UsageError(
            f"The atlas has {len(atlas.sizes):,} patterns of patches of {atlas.transform.patch} pixels, {model.card.name} has "
            f"{patterns:,} of {model.transform.patch}; `ibot patterns find` makes one that fits."
        )
    check_patches(atlas.transform, photo)


def composition(model: Model, photo: Photo, atlas: Atlas) -> Shown:
    """The four patches of a picture with most attention and different patterns, each with its layout (Fig. 15)."""
    _check(model, photo, atlas.atlas)
    found = compose(model, photo.image, atlas.atlas)
    patterns = ", ".join(str(part.pattern) for part in found.parts)
    says = f"The picture's most attended patterns are {patterns}. Click a patch of it to see the layout of its own pattern."
    python = f"""
        import ibot_hub
        {atlas.imports}
        from ibot_hub.draw.patterns import draw_composition

        model = ibot_hub.load({model.card.name!r}, head=True)
        atlas = {atlas.python}
        photo = {photo.name!r}
        draw_composition(photo, ibot_hub.compose(model, photo, atlas), atlas).save("composition.png")
    """
    words = [
        "ibot",
        "patterns",
        "compose",
        photo.name,
        *(["--atlas", atlas.file] if atlas.file else []),
        "--model",
        model.card.name,
        "-o",
        "composition.png",
    ]
    return Shown(draw_composition(photo.image, found, atlas.atlas), says, code(python), atlas.making + shlex.join(words))


@dataclass(frozen=True)
class Indexes:
    """Two indexes of one person's pictures."""

    images: Index
    patches: Index


def indexed(model: Model, folder: Path) -> Indexes:
    """The indexes of a workspace's pictures."""
    extract(model, folder / PICTURES, folder / "features", tokens="both")
    made = {of: build_index(folder / "features", folder / of, of=of) for of in ("images", "patches")}
    return Indexes(made["images"], made["patches"])


def neighbours(model: Model, photo: Photo, indexes: Indexes, point: tuple[float, float] | None) -> Shown:
    """The nearest pictures; or the nearest patches to the one at `point`, (x, y) in pixels of the picture."""
    of, index = ("images", indexes.images) if point is None else ("patches", indexes.patches)
    hits = search(index, model, photo.image, at=point)
    says = f"The {len(hits.hits)} nearest of {len(index)} {of}, by cosine."
    where = "" if point is None else f", at={point!r}"
    python = f"""
        import ibot_hub
        from ibot_hub.draw.hits import draw_hits

        model = ibot_hub.load({model.card.name!r})
        ibot_hub.extract(model, {PICTURES!r}, "features", tokens="both")
        index = ibot_hub.build_index("features", {of!r}, of={of!r})
        hits = ibot_hub.search(index, model, {photo.name!r}{where})
        draw_hits({photo.name!r}, hits).save("hits.png")
    """
    asked = [
        "ibot",
        "search",
        of,
        photo.name,
        "-k",
        str(SearchOptions.k),
        *([] if point is None else ["--at", f"{point[0]:g},{point[1]:g}"]),
    ]
    command = "\n".join(
        shlex.join(words)
        for words in (
            ["ibot", "extract-features", PICTURES, "-o", "features", "--tokens", "both", "--model", model.card.name],
            ["ibot", "index", "features", "--of", of, "-o", of],
            [*asked, "-o", "hits.png"],
        )
    )
    return Shown(draw_hits(photo.image, hits), says, code(python), command)
