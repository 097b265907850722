"""`ibot eval occlusion` and `shuffle`: how well classes are told from images that lack patches or order."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, Val, answer, both_read, both_sides, opened
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
    given = _opened_head(head, train)
    loaded = needs_images(opened(model, val, *([train] if train else [])), val)
    protocol.check_drops(loaded, options)
    used = given or _trained_head(both_read(str(train), val), loaded, Path(out), options)
    report = protocol.occlusion(loaded, used, val, options)
    curves = {
        str(drop): [(100 * ratio, top1) for ratio, top1 in zip(report.ratios, tops, strict=True)] for drop, tops in report.top1.items()
    }
    picture = draw_curves(curves, title=loaded.card.name, across="lost, per cent of patches or of attention", up="top-1, per cent")
    results = {**asdict(report), "left_out": {"val": report.left_out}}
    settings = {**settings_of_network(network_of(loaded, options)), **_settings(used, options.seed)}
    answer(record_of_model(loaded, "occlusion", _data(val, head, train), settings, results, report.table), Path(out), as_json, picture)


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
    given = _opened_head(head, train)
    loaded = needs_images(opened(model, val, *([train] if train else [])), val)
    used = given or _trained_head(both_read(str(train), val), loaded, Path(out), options)
    report = protocol.shuffle(loaded, used, val, options)
    for rows, columns in report.grids_left_out:
        print(f"left out: {rows} x {columns} pieces, which do not divide the images", file=sys.stderr)
    points = [(rows * columns, top1) for (rows, columns), top1 in zip(report.grids, report.top1, strict=True)]
    picture = draw_curves({"shuffled": points}, title=loaded.card.name, across="pieces", up="top-1, per cent", logarithmic=True)
    results = {**asdict(report), "left_out": {"val": report.left_out}}
    settings = {**settings_of_network(network_of(loaded, options)), **_settings(used, options.seed)}
    answer(record_of_model(loaded, "shuffle", _data(val, head, train), settings, results, report.table), Path(out), as_json, picture)


def _opened_head(file: Path | None, train: str | None) -> "LinearHead | None":
    """What --head names; None where --train says what one is to be trained on."""
    from ibot_hub.evaluation.linear_head import open_head

    if (file is None) == (train is None):
        raise UsageError("Say --head FILE, which `ibot eval linear` writes, or --train DIR to train one, and not both.")
    return open_head(file) if file else None


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
