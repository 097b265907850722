"""`ibot eval video`: how well a model follows objects through clips."""

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, answer, loaded_model
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.evaluation.options import PropagationOptions

if TYPE_CHECKING:
    from PIL.Image import Image

    from ibot_hub.evaluation.clips import MaskedClip

DRAWN = 8  # clips, of each the first, the middle and the last frame


@options_from(PropagationOptions)
def video(
    folder: Annotated[Path, typer.Argument(help="In the layout of DAVIS: JPEGImages/480p/NAME and Annotations/480p/NAME.")],
    split: Annotated[str | None, typer.Option(help="A list of clips in ImageSets/2017; default: val where there is one, else all.")] = None,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: PropagationOptions,
) -> None:
    """Carry the masks of first frames through clips (Table 16, DAVIS).

    Prints J, F and their mean; writes the masks, and a picture of the first, middle and last frame of clips.
    """
    from ibot_hub.evaluation.clips import read_clips
    from ibot_hub.evaluation.extra import needed
    from ibot_hub.evaluation.propagation import frame_std
    from ibot_hub.evaluation.record import record_of_model, settings_of_options
    from ibot_hub.evaluation.tracking import evaluate_tracking

    needed("scipy.ndimage")
    clips = read_clips(folder, split)
    loaded = loaded_model(model)  # after what may be wrong with the clips
    report = evaluate_tracking(loaded, clips, out / "masks", options)
    results = {"j_and_f": report.both, "j": report.regions, "f": report.contours, "objects": [asdict(found) for found in report.objects]}
    seen = {**settings_of_options(loaded, options), "std": frame_std(loaded.transform)}
    settings = {**seen, "clips": len(clips), "scipy": version("scipy")}
    answer(
        record_of_model(loaded, "video", {"clips": str(folder)}, settings, results, report.table),
        out,
        as_json,
        lambda: _drawn(clips[:DRAWN], out / "masks"),
    )
    print(f"the masks are in {out / 'masks'}", file=sys.stderr)


def _drawn(clips: "list[MaskedClip]", masks: Path) -> "Image":
    from ibot_hub.draw.masks import draw_masks
    from ibot_hub.evaluation.clips import read_mask
    from ibot_hub.images import decode

    rows = []
    for clip in clips:
        row = []
        for index in (0, len(clip.frames) // 2, len(clip.frames) - 1):
            image = decode(clip.frames[index])
            mask = masks / clip.name / f"{clip.frames[index].stem}.png" if index else clip.masks[0]
            row.append((image, read_mask(mask, image.size)))
        rows.append(row)
    return draw_masks(rows, [clip.name for clip in clips])
