"""`ibot match`: two images, or two views of one, become a picture of their strongest matches."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibot_cli.models import AsJson, Device, ModelName, chosen_model
from ibot_cli.options import options_from
from ibot_cli.pictures import check_picture, write_picture
from ibot_hub.errors import UsageError
from ibot_hub.options import MatchOptions, ViewsOptions

if TYPE_CHECKING:
    from PIL.Image import Image

    from ibot_hub.correspondence import Matches
    from ibot_hub.model import Model

    Told = tuple[Matches, Image, dict[str, Any], str]  # what was found, its picture, facts for programs, words for people


@options_from(MatchOptions)
def match(
    first: Annotated[str | None, typer.Argument(help="An image.")] = None,
    second: Annotated[str | None, typer.Argument(help="Another one, of any size.")] = None,
    views: Annotated[str | None, typer.Option("--views", metavar="IMAGE", help="Match two augmented views of this image instead.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the views.")] = ViewsOptions.seed,
    model: ModelName = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write.")] = Path("matches.png"),
    as_json: AsJson = False,
    device: Device = "auto",
    *,
    options: MatchOptions,
) -> None:
    """Find each patch's partner in another image and draw the strongest pairs.

    Points are (x, y) in pixels of the images as given. Two views of one image (--views) tell which pairs are right.
    """
    from ibot_hub.devices import choose_devices
    from ibot_hub.images import as_images
    from ibot_hub.loading import load

    if views is None and second is None:
        raise UsageError("ibot match takes two images, FIRST and SECOND, or --views IMAGE for two views of one.")
    if views is not None and first is not None:
        raise UsageError("--views takes one image and makes two views of it; leave FIRST and SECOND out.")
    images = as_images([views] if views is not None else [path for path in (first, second) if path is not None])
    check_picture(out)
    chosen = choose_devices(device)[0]  # all this before a model is fetched for nothing
    loaded = load(chosen_model(model), head=False, device=chosen)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    if views is None:
        matches, picture, facts, words = _of_pair(loaded, images[0], images[1], options)
    else:
        matches, picture, facts, words = _of_views(loaded, images[0], seed, options)
    write_picture(picture, out)
    if as_json:
        print(json.dumps({"out": str(out), "model": loaded.card.name, "rank": matches.rank, **facts}))
        return
    if matches.rank == "similarity" and options.rank == "auto":
        print(f"{loaded.card.name} has no attention of [CLS]: ranked by similarity", file=sys.stderr)
    print(f"{len(matches.scores)} matches, strongest {matches.rank} first -> {out}{words}", file=sys.stderr)


def _of_pair(model: "Model", first: "Image", second: "Image", options: MatchOptions) -> "Told":
    from ibot_hub.correspondence import match
    from ibot_hub.draw.matches import draw_matches

    found = match(
        model,
        first,
        second,
        options.count,
        mutual=options.mutual,
        similarity=options.similarity,
        rank=options.rank,
        transform=replace(model.transform, size=options.size or model.transform.size, resize=options.resize),
    )
    return found, draw_matches(found, first, second), {"matches": _rows(found)}, ""


def _of_views(model: "Model", image: "Image", seed: int, options: MatchOptions) -> "Told":
    from ibot_hub.draw.matches import draw_matches
    from ibot_hub.evaluation.matching import match_views

    found = match_views(model, image, seed, options)
    views, overlap = found.views, found.overlap
    facts = {
        "views": [{"box": view.box, "flipped": view.flipped} for view in (views.first, views.second)],
        "matches": [row | {"right": bool(right)} for row, right in zip(_rows(found.matches), found.right, strict=True)],
        "share": overlap.share,
        "patches": overlap.patches,
        "chance": overlap.chance,
    }
    words = "\nthe two views do not overlap: nothing to match; try another --seed"
    if overlap.share is not None:
        words = (
            f"\n{found.right.sum()} of them are right (blue; wrong ones are vermilion and dashed); "
            f"of all {overlap.patches} patches of the overlap {overlap.share:.1%}, by chance {overlap.chance:.1%}"
        )
    picture = draw_matches(found.matches, views.first.image, views.second.image, right=found.right.tolist())
    return found.matches, picture, facts, words


def _rows(matches: "Matches") -> list[dict[str, Any]]:
    """A match each: points (x, y) in pixels, patches (row, column)."""
    columns = {
        "first": matches.first,
        "second": matches.second,
        "first_patch": matches.first_patches,
        "second_patch": matches.second_patches,
        "score": matches.scores,
        "similarity": matches.similarities,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*(values.tolist() for values in columns.values()), strict=True)]
