"""`ibot index` and `ibot search`: extracted features become an index, and an image is asked of it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibot_cli.models import AsJson
from ibot_cli.options import options_from
from ibot_cli.pictures import check_picture, write_picture
from ibot_hub.errors import UsageError
from ibot_hub.options import IndexOptions, SearchOptions

if TYPE_CHECKING:
    from ibot_hub.retrieval.neighbours import Hit


@options_from(IndexOptions)
def index(
    features: Annotated[Path, typer.Argument(help="A folder that `ibot extract-features` wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; an index that is there is replaced.")] = Path("index"),
    as_json: AsJson = False,
    *,
    options: IndexOptions,
) -> None:
    """Make an index of extracted features, which `ibot search` asks.

    For patches, extract with --tokens both or patches.
    """
    from ibot_hub.retrieval.indexing import build_index

    manifest = build_index(features, out, options).manifest
    if as_json:
        facts = {name: getattr(manifest, name) for name in ("of", "kind", "count", "images", "width")}
        print(json.dumps({"out": str(out), "model": manifest.features.model, **facts}))
        return
    held = f"{manifest.count} patches of {manifest.images} images" if manifest.of == "patches" else f"{manifest.images} images"
    print(f"{held} by {manifest.features.model} -> {out}, {manifest.kind}", file=sys.stderr)


def search(
    index: Annotated[Path, typer.Argument(help="A folder that `ibot index` wrote.")],
    image: Annotated[str, typer.Argument(help="The image to ask with.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many are found.")] = SearchOptions.k,
    patch: Annotated[str | None, typer.Option("--patch", metavar="ROW,COLUMN", help="In an index of patches: which of the image.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="X,Y", help="Or a point in the image, in its pixels.")] = None,
    per_image: Annotated[
        int, typer.Option("--per-image", min=1, help="Of patches: how many of one image at most.")
    ] = SearchOptions.per_image,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the index's model is now, if not under its name: a name, a file or a folder.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write.")] = Path("hits.png"),
    as_json: AsJson = False,
) -> None:
    """Find the images, or patches, that are most like one.

    The model and the preparation are those that the index was made with.
    """
    from ibot_hub.draw.hits import draw_hits
    from ibot_hub.images import as_images
    from ibot_hub.retrieval.index import open_index
    from ibot_hub.retrieval.neighbours import model_of
    from ibot_hub.retrieval.neighbours import search as ask

    row_column = _pair(patch, "--patch", "ROW,COLUMN", int)
    point = _pair(at, "--at", "X,Y", float)
    check_picture(out)
    opened = open_index(index)
    picture = as_images(image)[0]  # all this before a model is fetched for nothing
    loaded = model_of(opened, model)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    hits = ask(opened, loaded, picture, k, patch=row_column, at=point, per_image=per_image)
    write_picture(draw_hits(picture, hits), out)
    if as_json:
        print(json.dumps({"out": str(out), "of": hits.of, "patch": hits.patch, "hits": [_facts(hit) for hit in hits.hits]}))
        return
    for rank, hit in enumerate(hits.hits, 1):
        where = f"  patch {hit.patch[0]},{hit.patch[1]}" if hit.patch else ""
        print(f"{rank:>{len(str(k))}}  {hit.score:6.3f}  {hit.path}{where}")
    print(f"the nearest {len(hits.hits)} of {opened.manifest.count:,} {opened.manifest.of} -> {out}", file=sys.stderr)


def _facts(hit: "Hit") -> dict[str, Any]:
    where = {"patch": hit.patch, "centre": hit.fit.centre(*hit.patch)} if hit.patch else {}
    return {"path": hit.path, "file": hit.entry.location, "score": hit.score, **where}


def _pair(words: str | None, option: str, form: str, kind: type) -> Any:
    """Two numbers with a comma between them."""
    if words is None:
        return None
    try:
        first, second = map(kind, words.split(","))
    except ValueError as error:
        raise UsageError(f"{option} is {words!r}; it must be {form}, such as {option} 3,5.") from error
    return first, second
