"""`ibot eval linear` and `parts`: how well a linear classifier tells classes from frozen features."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ibot_cli.evaluate.arguments import OUT, Out, Train, Val, answer, both_read, both_sides, opened
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import LinearOptions, SweepOptions
from ibot_hub.options import Pool

if TYPE_CHECKING:
    from ibot_hub.model import Model

HEAD = "linear.safetensors"


@options_from(LinearOptions)
def linear(
    train: Train,
    val: Val,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: LinearOptions,
) -> None:
    """Train linear classifiers with 45 learning rates at once, and measure the best (Table 1).

    The classifier is saved in the results' folder: `ibot eval occlusion` and `shuffle` take it.
    """
    from ibot_hub.evaluation import linear as protocol
    from ibot_hub.evaluation.crops import FreshCrops, entries_of
    from ibot_hub.evaluation.images import network_of
    from ibot_hub.evaluation.labelled import left_out
    from ibot_hub.evaluation.linear_head import LinearHead
    from ibot_hub.evaluation.record import record
    from ibot_hub.features.store import MANIFEST

    if options.augment and (Path(train) / MANIFEST).exists():
        raise UsageError(
            f"{train} holds features, and fresh crops need the images; give the folder of class folders, or leave --augment out."
        )
    sides = both_read(train, val)
    loaded = opened(model, train, val)
    layers, pool = kind_of_probe(loaded, (train, val), options)
    one, other = both_sides(sides, loaded, Path(out), options, layers=layers, pool=pool)
    crops = None
    if options.augment:
        network = network_of(needs_images(loaded, train), options)
        crops = FreshCrops(network, entries_of(train, one.paths), one.labels, layers, pool, options.step_images, options.seed)
    report = protocol.linear(one.features, one.labels, other.features, other.labels, options, crops=crops)
    head = Path(out) / HEAD
    results = {**report.numbers, "head": str(head), "left_out": left_out(train=one, val=other)}
    settings = {**own_settings(options), "augment": options.augment, "classes": len(one.classes)}
    answer(record(one.manifest, "linear", {"train": train, "val": val}, settings, results, report.table), Path(out), as_json)
    LinearHead(report.weight, report.bias, one.classes, report.rate, one.manifest).save(head)  # now that an earlier one is set aside
    print(f"the classifier is in {head}", file=sys.stderr)


@options_from(SweepOptions)
def parts(
    train: Train,
    val: Val,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: SweepOptions,
) -> None:
    """Tell classes from the few patches with most or least attention of [CLS] (Fig. 5).

    Both folders hold images; a curve is drawn beside the results.
    """
    from ibot_hub.attention import needs_cls
    from ibot_hub.draw.curves import check_matplotlib, draw_curves
    from ibot_hub.evaluation import parts as protocol
    from ibot_hub.evaluation.images import network_of
    from ibot_hub.evaluation.record import record_of_model, settings_of_network

    check_matplotlib()
    both_read(train, val)
    loaded = needs_images(opened(model, train, val), train, val)
    needs_cls(loaded.backbone)
    one, other = (protocol.part_means(loaded, source, options) for source in (train, val))
    report = protocol.parts(one, other, options)
    curves = {
        "most attention": list(zip(report.counts, report.top, strict=True)),
        "least attention": list(zip(report.counts, report.bottom, strict=True)),
    }
    picture = draw_curves(
        curves, title=loaded.card.name, across=f"patches that are averaged, of {report.patches}", up="top-1, per cent", logarithmic=True
    )
    data, results = {"train": train, "val": val}, {**asdict(report), "left_out": {"train": one.left_out, "val": other.left_out}}
    settings = {**settings_of_network(network_of(loaded, options)), **own_settings(options)}
    answer(record_of_model(loaded, "parts", data, settings, results, report.table), Path(out), as_json, picture)


def kind_of_probe(model: "Model | None", sources: tuple[str, ...], options: LinearOptions) -> tuple[int, Pool]:
    """Layers and pool: those that were asked for, else those of features that are there already, else the paper's for the model."""
    from ibot_hub.evaluation.linear import probed
    from ibot_hub.features.store import MANIFEST, read_manifest

    made = [read_manifest(Path(source)) for source in sources if (Path(source) / MANIFEST).exists()]
    layers, pool = (made[0].layers, made[0].pool) if made else probed(needs_images(model, *sources))
    return options.layers or layers, options.pool or pool  # type: ignore[return-value]  # a manifest's pool is a word


def needs_images(model: "Model | None", *sources: str) -> "Model":
    """The model; raises UsageError where all sources hold features, so that none was opened."""
    if model is None:
        raise UsageError(f"{sources[0]} holds features, and the images themselves are needed; give the folder of class folders.")
    return model


def own_settings(options: SweepOptions) -> dict[str, object]:
    """What a record tells of how classifiers were trained."""
    return {name: getattr(options, name) for name in ("epochs", "step_images", "select", "held_out", "seed")}
