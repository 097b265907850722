"""`ibot eval correspondence` and `pair`: how many patches find their partner in another view or photograph."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.models import AsJson, Device, ModelName, chosen_model
from ibot_cli.options import options_from
from ibot_hub.options import MatchOptions, Resize, Similarity, ViewsOptions


@options_from(ViewsOptions)
def correspondence(
    source: Annotated[str, typer.Argument(help="An image, a folder, a text file of paths, or .tar shards.")],
    model: ModelName = None,
    as_json: AsJson = False,
    device: Device = "auto",
    *,
    options: ViewsOptions,
) -> None:
    """Match two views of each image: how many partners are right.

    Two random crops of an image, in other colours: the truth is known where they overlap (paper, Fig. 19; official script).
    """
    from ibot_hub.devices import choose_devices
    from ibot_hub.evaluation.matching import evaluate_views
    from ibot_hub.loading import load
    from ibot_hub.sources import kind_of

    kind_of(source)
    chosen = choose_devices(device)[0]  # all this before a model is fetched for nothing
    loaded = load(chosen_model(model), head=False, device=chosen)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    report = evaluate_views(loaded, source, options)
    if as_json:
        print(json.dumps({"model": loaded.card.name, "seed": options.seed, **asdict(report)}))
        return
    for name, reason in report.failed:
        print(f"could not be read: {name}: {reason}", file=sys.stderr)
    print(
        f"{report.share:.2%} of partners are right, mean over {len(report.shares)} images "
        f"({report.patches} patches of the overlaps; by chance {report.chance:.2%})"
    )
    if report.apart or report.failed:
        print(f"not measured: {report.apart} images whose views do not overlap, {len(report.failed)} that could not be read")


def pair(
    first: Annotated[str, typer.Argument(help="An image.")],
    second: Annotated[str, typer.Argument(help="Another one of the same plane, such as a wall.")],
    homography: Annotated[Path, typer.Option(help="A text file with nine numbers: pixels of FIRST to pixels of SECOND.")],
    model: ModelName = None,
    similarity: Annotated[Similarity, typer.Option(help="As in `ibot match`.")] = MatchOptions.similarity,
    size: Annotated[int | None, typer.Option(min=1, help="As in `ibot match`.")] = MatchOptions.size,
    resize: Annotated[Resize, typer.Option(help="As in `ibot match`.")] = MatchOptions.resize,
    as_json: AsJson = False,
) -> None:
    """Match two photographs of one plane, whose homography is known.

    All patches of FIRST count whose true partner lies in SECOND.
    """
    from ibot_hub.correspondence import partner_map
    from ibot_hub.evaluation.homography import measure_homography, read_homography
    from ibot_hub.images import as_images
    from ibot_hub.loading import load

    matrix = read_homography(homography)
    images = as_images([first, second])  # all this before a model is fetched for nothing
    loaded = load(chosen_model(model), head=False)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    transform = replace(loaded.transform, size=size or loaded.transform.size, resize=resize)
    report = measure_homography(partner_map(loaded, *images, similarity=similarity, transform=transform), matrix)
    if as_json:
        print(json.dumps({"model": loaded.card.name, **asdict(report)}))
        return
    print(f"{report.patches} patches of {first} whose true partner lies in {second}; of their partners")
    print(f"  {report.same:6.1%} are the true patch, {report.within_one:.1%} that or a neighbour of it")
    for threshold, share in report.pck.items():
        print(f"  {share:6.1%} are within {threshold:.0%} of the longer side (PCK)")
    print(f"  {report.median:.0f} pixels is the median distance")
