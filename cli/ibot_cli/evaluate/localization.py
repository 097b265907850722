"""`ibot eval localize`: how well boxes round what [CLS] attends to agree with given ones."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, answer, loaded_model
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.evaluation.options import LocalizationOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

    from ibot_hub.evaluation.boxes import Box
    from ibot_hub.evaluation.localization import LocalizationReport

DRAWN = 24  # images


@options_from(LocalizationOptions)
def localize(
    images: Annotated[Path, typer.Argument(help="The folder of the images.")],
    boxes: Annotated[Path, typer.Option(help="A .csv with path, x, y, width, height, or a .json list of objects with these keys.")],
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: LocalizationOptions,
) -> None:
    """Box what the attention heads look at, beside given boxes: CorLoc (Fig. 6 as a number).

    The largest piece of the patches that hold --mass of a map, for the mean of the heads and for each; writes a picture of the best map's.
    """
    from ibot_hub.evaluation.boxes import read_boxes
    from ibot_hub.evaluation.extra import needed
    from ibot_hub.evaluation.localization import check_images, evaluate_localization
    from ibot_hub.evaluation.record import record_of_model, settings_of_options

    needed("scipy.ndimage")
    given = read_boxes(boxes)
    check_images(images, given)  # before a model is fetched for nothing
    loaded = loaded_model(model)
    report = evaluate_localization(loaded, images, given, options)
    for path, reason in report.failed:
        print(f"left out: {path}: {reason}", file=sys.stderr)
    corloc = dict(zip(report.maps, report.corloc, strict=True))
    results = {"corloc": corloc, "best": report.maps[report.best], "images": len(report.paths), "failed": report.failed}
    data = {"images": str(images), "boxes": str(boxes)}
    settings = {**settings_of_options(loaded, options), "of": report.of, "scipy": version("scipy")}
    answer(record_of_model(loaded, "localize", data, settings, results, report.table), out, as_json, lambda: _drawn(images, report, given))


def _drawn(folder: Path, report: "LocalizationReport", given: "Mapping[str, tuple[Box, ...]]") -> "Image":
    from ibot_hub.draw.boxes import draw_boxes
    from ibot_hub.images import decode

    paths, place = report.paths[:DRAWN], report.best
    right = [bool(share >= report.share) for share in report.overlaps[place, : len(paths)]]
    found = [of_image[place] for of_image in report.found[: len(paths)]]
    return draw_boxes([decode(folder / path) for path in paths], found, [given[path] for path in paths], right, paths)
