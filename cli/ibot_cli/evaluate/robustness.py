"""`ibot eval occlusion` and `shuffle`: how well classes are told from images that lack patches or order."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, Val, answer, both_read, both_sides, check_images, opened
from ibot_cli.evaluate.linear import needs_images
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import OcclusionOptions, ShuffleOptions
from ibot_hub.options import EvaluationOptions

if TYPE_CHECKING:
    from ibot_cli.evaluate.arguments import Sides
    from ibot_hub.evaluation.linear_head import LinearHead
    from ibot_hub.model import Model

TRAINED = "trained-head.safetensors"  # beside what `ibot eval linear` may have saved
HeadFile = Annotated[Path | None, typer.Option("--head", help="The classifier that `ibot eval linear` saved.")]
TrainHead = Annotated[str | None, typer.Option("--train", help="Without --head: the class folders, or features, that train one.")]


@options_from(OcclusionOptions)
def occlusion(
    val: Val,
    head: HeadFile = None,
    train: TrainHead = None,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: OcclusionOptions,
) -> None:
    """Drop patches of images, at random or by the attention of [CLS], and tell their classes (Table 8, Fig. 9).

    S.5 and NS.5 of Table 8 are salient and non-salient at 0.5.
    """
    from ibot_hub.draw.curves import check_matplotlib, draw_curves
    from ibot_hub.evaluation import occlusion as protocol
    from ibot_hub.evaluation.images import network_of
    from ibot_hub.evaluation.record import record_of_model, settings_of_network

    check_matplotlib()
    given, sides = _given(head, train, val)
    loaded = needs_images(opened(model, val, *([train] if train else [])), val)
    protocol.check_drops(loaded, options)
    used = given or _trained_head(sides, loaded, Path(out), options)
    report = protocol.occlusion(loaded, used, val, options)
    curves = {
        str(drop): [(100 * ratio, top1) for ratio, top1 in zip(report.ratios, tops, strict=True)] for drop, tops in report.top1.items()
    }
    across = "lost, per cent of patches or of attention"
    results = {**asdict(report), "left_out": {"val": report.left_out}}
    settings = {**settings_of_network(network_of(loaded, options)), **_settings(used, options.seed)}
    answer(
        record_of_model(loaded, "occlusion", _data(val, head, train), settings, results, report.table),
        Path(out),
        as_json,
        lambda: draw_curves(curves, title=loaded.card.name, across=across, up="top-1, per cent"),
    )


@options_from(ShuffleOptions)
def shuffle(
    val: Val,
    head: HeadFile = None,
    train: TrainHead = None,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: ShuffleOptions,
) -> None:
    """Shuffle the pieces of images, and tell their classes (Fig. 10)."""
    from ibot_hub.draw.curves import check_matplotlib, draw_curves
    from ibot_hub.evaluation import shuffle as protocol
    from ibot_hub.evaluation.images import network_of
    from ibot_hub.evaluation.record import record_of_model, settings_of_network

    check_matplotlib()
    given, sides = _given(head, train, val)
    loaded = needs_images(opened(model, val, *([train] if train else [])), val)
    used = given or _trained_head(sides, loaded, Path(out), options)
    report = protocol.shuffle(loaded, used, val, options)
    for rows, columns in report.grids_left_out:
        print(f"left out: {rows} x {columns} pieces, which do not divide the images", file=sys.stderr)
    points = [(rows * columns, top1) for (rows, columns), top1 in zip(report.grids, report.top1, strict=True)]
    results = {**asdict(report), "left_out": {"val": report.left_out}}
    settings = {**settings_of_network(network_of(loaded, options)), **_settings(used, options.seed)}
    answer(
        record_of_model(loaded, "shuffle", _data(val, head, train), settings, results, report.table),
        Path(out),
        as_json,
        lambda: draw_curves({"shuffled": points}, title=loaded.card.name, across="pieces", up="top-1, per cent", logarithmic=True),
    )


def _given(head: Path | None, train: str | None, val: str) -> "tuple[LinearHead | None, Sides]":
    """What --head names, or None where --train says what one is to be trained on; and what both sides hold, of which the classes fit."""
    from ibot_hub.evaluation.class_folders import read_classes
    from ibot_hub.evaluation.linear_head import open_head
    from ibot_hub.evaluation.robustness import check_known

    if (head is None) == (train is None):
        raise UsageError("Say --head FILE, which `ibot eval linear` writes, or --train DIR to train one, and not both.")
    given = open_head(head) if head else None
    sides = both_read(train, val) if train else (read_classes(val),) * 2
    check_images(sides[1])
    if given:
        check_known(given, sides[1])
    return given, sides


def _trained_head(sides: "Sides", model: "Model", out: Path, options: EvaluationOptions) -> "LinearHead":
    """A head as `ibot eval linear` trains it by default, which is left in the folder of the results."""
    from ibot_hub.evaluation.linear import linear, probed
    from ibot_hub.evaluation.linear_head import LinearHead

    layers, pool = probed(model)
    one, other = both_sides(sides, model, out, options, layers=layers, pool=pool)
    report = linear(one.features, one.labels, other.features, other.labels, device=options.device)
    trained = LinearHead(report.weight, report.bias, one.classes, report.rate, one.manifest)
    trained.save(out / TRAINED)
    print(f"the classifier is in {out / TRAINED}; --head takes it", file=sys.stderr)
    return trained


def _data(val: str, head: Path | None, train: str | None) -> dict[str, str]:
    return {"val": val, **({"head": str(head)} if head else {"train": str(train)})}


def _settings(head: "LinearHead", seed: int) -> dict[str, object]:
    return {"layers": head.manifest.layers, "pool": head.manifest.pool, "rate": head.rate, "classes": len(head.classes), "seed": seed}
