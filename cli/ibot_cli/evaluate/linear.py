"""`ibot eval linear` and `parts`: how well a linear classifier tells classes from frozen features."""

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ibot_cli.evaluate.arguments import OUT, Out, Train, Val, answer, both_read, both_sides, check_images, opened
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
    from ibot_hub.evaluation.record import record, set_aside
    from ibot_hub.evaluation.subsets import check_held_out

    sides = both_read(train, val)
    if options.augment:
        check_images(sides[0])
    if options.select == "held-out":
        check_held_out(sides[0].images.values())
    loaded = opened(model, train, val)
    layers, pool = kind_of_probe(loaded, (train, val), options)
    one, other = both_sides(sides, loaded, Path(out), options, layers=layers, pool=pool)
    crops = None
    if options.augment:
        network = network_of(needs_images(loaded, train), options)
        crops = FreshCrops(network, entries_of(train, one.paths), one.labels, layers, pool, options.step_images, options.seed)
    report = protocol.linear(one.features, one.labels, other.features, other.labels, options, crops=crops)
    data, head = {"train": train, "val": val}, Path(out) / HEAD
    set_aside("linear", one.manifest.weights, data, Path(out))  # before its classifier is written over
    LinearHead(report.weight, report.bias, one.classes, report.rate, one.manifest).save(head)
    digest = hashlib.sha256(head.read_bytes()).hexdigest()
    results = {**report.numbers, "head": str(head), "head_sha256": digest, "left_out": left_out(train=one, val=other)}
    settings = {**own_settings(options), "augment": options.augment, "classes": len(one.classes)}
    print(f"the classifier is in {head}", file=sys.stderr)
    answer(record(one.manifest, "linear", data, settings, results, report.table), Path(out), as_json)


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
    from ibot_hub.evaluation.subsets import check_held_out

    check_matplotlib()
    sides = both_read(train, val)
    check_images(*sides)
    if options.select == "held-out":
        check_held_out(sides[0].images.values())
    loaded = needs_images(opened(model, train, val), train, val)
    needs_cls(loaded.backbone)
    one, other = (protocol.part_means(loaded, source, options) for source in (train, val))
    report = protocol.parts(one, other, options)
    curves = {
        "most attention": list(zip(report.counts, report.top, strict=True)),
        "least attention": list(zip(report.counts, report.bottom, strict=True)),
    }
    across = f"patches that are averaged, of {report.patches}"
    data, results = {"train": train, "val": val}, {**asdict(report), "left_out": {"train": one.left_out, "val": other.left_out}}
    settings = {**settings_of_network(network_of(loaded, options)), **own_settings(options)}
    answer(
        record_of_model(loaded, "parts", data, settings, results, report.table),
        Path(out),
        as_json,
        lambda: draw_curves(curves, title=loaded.card.name, across=across, up="top-1, per cent", logarithmic=True),
    )


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
