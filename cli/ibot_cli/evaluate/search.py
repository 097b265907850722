"""`ibot eval retrieval`, `revisited` and `copy`: how well images find their like."""

from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, answer, both_read, both_sides, loaded_model, one_side, opened
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.evaluation.options import CopyOptions, RevisitedOptions
from ibot_hub.options import EvaluationOptions


@options_from(EvaluationOptions)
def retrieval(
    gallery: Annotated[str, typer.Option(help="A folder of class folders, or what `ibot extract-features` wrote of one: what is found.")],
    query: Annotated[
        str | None, typer.Option(help="The same of what asks; default: each image of the gallery asks for the others of its class.")
    ] = None,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: EvaluationOptions,
) -> None:
    """Rank images by their cosine with each query: mAP and mP@k.

    On [CLS]; images of the query's class are right, counted as Table 16 counts.
    """
    from ibot_hub.evaluation import retrieval as protocol
    from ibot_hub.evaluation.class_folders import read_classes
    from ibot_hub.evaluation.labelled import left_out
    from ibot_hub.evaluation.record import record

    sources = (gallery,) if query is None else (gallery, query)
    if query is None:
        folders = read_classes(gallery)
        protocol.check_gallery(folders.images)  # before a model is fetched for nothing
        one = one_side(folders, opened(model, gallery), out, options)
        report, sides = protocol.retrieval(one.features, one.labels, classes=one.classes), {"gallery": one}
    else:
        one, other = both_sides(both_read(gallery, query), opened(model, *sources), out, options)
        report, sides = protocol.retrieval(one.features, one.labels, other.features, other.labels), {"gallery": one, "query": other}
    results = {"map": report.mean_ap, "k": report.ks, "mp": report.mean_at, "images": report.images, "queries": report.queries}
    results["left_out"] = left_out(**sides)
    data = dict(zip(("gallery", "query"), sources, strict=False))
    answer(record(one.manifest, "retrieval", data, {"classes": len(one.classes)}, results, report.table), out, as_json)


@options_from(RevisitedOptions)
def revisited(
    truth: Annotated[Path, typer.Argument(help="gnd_roxford5k.pkl, gnd_rparis6k.pkl, or a file in their form; nothing in it is run.")],
    images: Annotated[Path | None, typer.Option(help="The folder of NAME.jpg; default: jpg beside the ground truth.")] = None,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: RevisitedOptions,
) -> None:
    """Find landmarks in revisited Oxford or Paris (Table 16).

    [CLS] at three scales; mAP and mP@k of easy, medium and hard.
    """
    from ibot_hub.evaluation import revisited as protocol
    from ibot_hub.evaluation.groundtruth import read_ground_truth
    from ibot_hub.evaluation.record import record_of_model, settings_of_options

    asked = read_ground_truth(truth)
    folder = images or truth.parent / "jpg"
    protocol.check_images(asked, folder)  # all this before a model is fetched for nothing
    loaded = loaded_model(model)
    report = protocol.evaluate_revisited(loaded, asked, folder, out / "features", options)
    results = {name: {"map": found.mean_ap, "mp": found.mean_at} for name, found in report.settings.items()}
    settings = {**settings_of_options(loaded, options), "scales": protocol.SCALES, "k": report.ks}
    data = {"truth": str(truth), "images": str(folder)}
    answer(record_of_model(loaded, "revisited", data, settings, results, report.table), out, as_json)


@options_from(CopyOptions)
def copy(
    folder: Annotated[Path, typer.Argument(help="In the layout of Copydays: original/200000.jpg, and its copies in other folders.")],
    distractors: Annotated[str | None, typer.Option(help="Other images that join the originals: a folder, a list, or .tar shards.")] = None,
    whitening: Annotated[str | None, typer.Option(help="Images that components are learnt from, by which vectors are whitened.")] = None,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: CopyOptions,
) -> None:
    """Find the originals of distorted copies, as on Copydays.

    By [CLS] and the generalised mean of patches; mAP of each block of copies. The official code measures it beside Table 16.
    """
    from ibot_hub.evaluation.copies import evaluate_copies, read_copies
    from ibot_hub.evaluation.record import record_of_model, settings_of_options
    from ibot_hub.sources import kind_of

    images = read_copies(folder)
    for source in filter(None, (distractors, whitening)):
        kind_of(source)  # all this before a model is fetched for nothing
    loaded = loaded_model(model)
    report = evaluate_copies(loaded, images, out / "features", distractors=distractors, whitening=whitening, options=options)
    results = {
        block: {"map": value, "copies": count} for block, value, count in zip(report.blocks, report.mean_ap, report.queries, strict=True)
    }
    data = {"images": str(folder), "distractors": distractors or "", "whitening": whitening or ""}
    settings = {**settings_of_options(loaded, options), "images": report.images}
    answer(record_of_model(loaded, "copy", data, settings, results, report.table), out, as_json)
