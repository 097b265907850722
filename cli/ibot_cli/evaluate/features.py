"""`ibot eval knn`: how well the features of a model tell classes apart."""

from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, Train, Val, answer, both_sides, opened
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.options import EvaluationOptions


@options_from(EvaluationOptions)
def knn(
    train: Train,
    val: Val,
    model: ModelName = None,
    k: Annotated[str, typer.Option(help="Numbers of neighbours, with commas between.")] = "10,20,100,200",
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: EvaluationOptions,
) -> None:
    """Classify validation images by their nearest training images (Tables 1, 10, 15).

    Weighted by exp(cosine / 0.07), on [CLS].
    """
    from ibot_hub.evaluation import knn as protocol
    from ibot_hub.evaluation.record import record

    ks = protocol.parse_ks(k)
    one, other = both_sides(train, val, opened(model, train, val), Path(out), options)
    report = protocol.knn(one.features, one.labels, other.features, other.labels, ks)
    results = {"k": report.ks, "top1": report.top1, "top5": report.top5, "images": report.images, "queries": report.queries}
    settings = {"temperature": protocol.TEMPERATURE, "classes": report.classes}
    answer(record(one.manifest, "knn", {"train": train, "val": val}, settings, results, report.table), Path(out), as_json)
