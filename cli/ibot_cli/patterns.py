"""`ibot patterns`: what a model's patterns gather from images, as an atlas, as layouts, and round one image."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibot_cli.models import DEFAULT, AsJson, ModelName, chosen_model
from ibot_cli.options import options_from
from ibot_cli.pictures import check_picture, write_picture
from ibot_hub.errors import StoreError, UsageError
from ibot_hub.options import PatternOptions

if TYPE_CHECKING:
    from ibot_hub.patterns.atlas import PatternAtlas
    from ibot_hub.patterns.layouts import Layout

app = typer.Typer(no_args_is_help=True, help="Find the patterns of a model, and show what each gathers.")

NAMED = 20  # images that could not be shown, by name

Network = Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")]
MembersOption = Annotated[
    int | None, typer.Option("--members", min=1, help="Members of a layout; default: as many as the atlas was made for.")
]


@app.command("find")
@options_from(PatternOptions)
def find(
    source: Annotated[str, typer.Argument(help="An image, a folder, a text file of paths, .tar shards, or - for paths on standard input.")],
    model: ModelName = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")] = Path("atlas.parquet"),
    network: Network = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
    as_json: AsJson = False,
    *,
    options: PatternOptions,
) -> None:
    """Find which patches each pattern gathers: an atlas.

    Every patch goes to its most likely pattern, each pattern keeps its most confident patches. The atlas is a Parquet file that
    is shown without the model; it remembers where the images are, or carries pictures of them (--pictures).
    """
    from ibot_hub.devices import choose_devices
    from ibot_hub.loading import load
    from ibot_hub.patterns.atlas import check_out
    from ibot_hub.patterns.finding import find_patterns
    from ibot_hub.sources import kind_of

    kind_of(source)
    choose_devices(options.device)
    check_out(out, overwrite=overwrite)  # all this before a model is fetched for nothing
    loaded = load(chosen_model(model), network=network, head=True)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    atlas = find_patterns(loaded, source, options)
    atlas.save(out)
    if as_json:
        print(json.dumps(_facts(atlas, out)))
    else:
        print(_summary(atlas, out), file=sys.stderr)


@app.command("show")
def show(
    atlas: Annotated[Path | None, typer.Argument(help="What `ibot patterns find` wrote; default: the atlas of the embedded model.")] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="The N largest patterns, each as a small layout; default 100.")] = None,
    pattern: Annotated[int | None, typer.Option("--pattern", min=0, help="The whole layout of one pattern, by its number.")] = None,
    members: MembersOption = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write.")] = Path("patterns.png"),
    as_json: AsJson = False,
) -> None:
    """Draw patterns: their most confident patches, each framed among the 5 x 5 round it.

    Crops too dark to see anything are left out, as in the official script. The images are read from where they were, unless the
    atlas carries pictures.
    """
    from ibot_hub.draw.patterns import SIDE, SMALL, draw_layout, draw_overview
    from ibot_hub.patterns.atlas import embedded_atlas, open_atlas
    from ibot_hub.patterns.layouts import layouts

    if top is not None and pattern is not None:
        raise UsageError("--top draws the largest patterns and --pattern one of them; say one of the two.")
    check_picture(out)
    opened = open_atlas(atlas) if atlas else embedded_atlas()
    if pattern is None:
        found = layouts(opened, opened.top(top or 100), members or SIDE * SIDE, SMALL)
        picture = draw_overview(found)
    else:
        found = layouts(opened, [pattern], members)
        if not found[0].size:
            raise UsageError(f"Pattern {pattern} gathered nothing in this atlas; --top shows those that did.")
        picture = draw_layout(found[0])
    _tell_problems(found)
    write_picture(picture, out)
    if as_json:
        print(json.dumps({"out": str(out), "patterns": [_layout_facts(opened, layout) for layout in found]}))
    else:
        what = f"pattern {pattern}" if pattern is not None else f"the {len(found)} largest of {len(opened.sizes):,} patterns"
        print(f"{what}, found by {opened.facts.model} in {opened.facts.images:,} images -> {out}", file=sys.stderr)


@app.command("compose")
def compose(
    image: Annotated[str, typer.Argument(help="An image.")],
    atlas: Annotated[
        Path | None, typer.Option("--atlas", help=f"What `ibot patterns find` wrote with this model; {DEFAULT} has its own.")
    ] = None,
    model: ModelName = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Patches, each of another pattern.")] = 4,
    members: MembersOption = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write.")] = Path("composition.png"),
    network: Network = None,
    as_json: AsJson = False,
) -> None:
    """Draw the patches that stand for an image, and what their patterns gather.

    The patches with most attention of [CLS] and different patterns, each with the layout of its pattern round the image.
    """
    from ibot_hub.draw.patterns import SMALL, draw_parts
    from ibot_hub.images import as_images
    from ibot_hub.loading import load
    from ibot_hub.patterns import finding
    from ibot_hub.patterns.atlas import embedded_atlas, open_atlas
    from ibot_hub.patterns.layouts import layouts

    (given,) = as_images(image)
    check_picture(out)
    if atlas is None and model not in (None, DEFAULT):
        raise UsageError(f"--atlas is missing: `ibot patterns find IMAGES --model {model}` makes one.")
    opened = open_atlas(atlas) if atlas else embedded_atlas()
    loaded = load(chosen_model(model), network=network, head=True)
    found = finding.compose(loaded, given, opened, count)
    several = layouts(opened, [part.pattern for part in found.parts], members, SMALL)
    _tell_problems(several)
    write_picture(draw_parts(given, found, several), out)
    rows = [
        {
            "patch": [part.row, part.column], "box": found.fit.box(part.row, part.column), "pattern": part.pattern,
            "attention": part.attention, "confidence": part.confidence, "size": layout.size,
        }
        for part, layout in zip(found.parts, several, strict=True)
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"out": str(out), "model": loaded.card.name, "of": found.of, "parts": rows}))
    else:
        print(f"patterns {', '.join(str(part.pattern) for part in found.parts)}, by {found.of} -> {out}", file=sys.stderr)


def _facts(atlas: "PatternAtlas", out: Path) -> dict[str, Any]:
    facts = atlas.facts
    return {
        "out": str(out), "model": facts.model, "network": facts.network, "of": facts.of, "confidence": facts.confidence,
        "images": facts.images, "failed": facts.failed, "failures": [list(failure) for failure in facts.failures],
        "assigned": int(atlas.sizes.sum()), "patterns": len(atlas.sizes), "used": int((atlas.sizes > 0).sum()), "dtype": facts.dtype,
        "largest": [[pattern, int(atlas.sizes[pattern])] for pattern in atlas.top(10)],
    }  # fmt: skip


def _summary(atlas: "PatternAtlas", out: Path) -> str:
    facts, sizes = atlas.facts, atlas.sizes
    what = "patches" if facts.of == "patches" else "images by [CLS]"
    found = f"{sizes.sum():,} {what} in {(sizes > 0).sum():,} of {len(sizes):,} patterns, by {facts.confidence}, {facts.dtype}"
    lines = [f"{facts.images:,} of {facts.images + facts.failed:,} images -> {out}: {found}"]
    if facts.failed:
        lines += [f"{path}: {reason}" for path, reason in facts.failures]
        lines.append(
            f"{facts.failed:,} images could not be read" + (", the first of them above" if facts.failed > len(facts.failures) else "")
        )
    return "\n".join(lines)


def _layout_facts(atlas: "PatternAtlas", layout: "Layout") -> dict[str, Any]:
    """The members that are shown; `box` is that of the patch in pixels of its image, none where the member is the whole image."""
    members = []
    for member in layout.members:
        place: dict[str, Any] = {}
        if member.row >= 0:
            box = atlas.transform.fit(member.width, member.height).box(member.row, member.column)
            place = {"patch": [member.row, member.column], "box": box}
        members.append({"path": member.path, **place, "confidence": member.confidence})
    return {"pattern": layout.pattern, "size": layout.size, "members": members}


def _tell_problems(several: list["Layout"]) -> None:
    """Name the images that could not be shown, once each. Raises StoreError where there is nothing else."""
    problems = list(dict.fromkeys(problem for layout in several for problem in layout.problems))
    if problems and not any(layout.pictures for layout in several):
        raise StoreError(
            f"None of the images that this atlas speaks of can be shown, such as {problems[0]}; put them back where they were, "
            "or find the atlas again with --pictures, so that it carries pictures."
        )
    for problem in problems[:NAMED]:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems):,} images could not be shown; the next members are in their place", file=sys.stderr)
