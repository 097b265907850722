"""`ibot eval knn`, `logistic` and `lowshot`: how well the features of a model tell classes apart."""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ibot_cli.evaluate.arguments import OUT, Out, Train, Val, answer, both_read, both_sides, computing_device, opened
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.evaluation.options import LogisticOptions
from ibot_hub.options import EvaluationOptions

_SPLIT = "A text file of training images, such as SimCLR's 1percent.txt; may be given more than once."
_PERCENT = "Without --split: shares of every class that are drawn, with commas between."
_K = "Numbers of neighbours, with commas between; default: those of 10,20,100,200 that there are."


@options_from(EvaluationOptions)
def knn(
    train: Train,
    val: Val,
    model: ModelName = None,
    k: Annotated[str | None, typer.Option(help=_K)] = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: EvaluationOptions,
) -> None:
    """Classify validation images by their nearest training images (Tables 1, 10, 15).

    Weighted by exp(cosine / 0.07), on [CLS].
    """
    from ibot_hub.evaluation import knn as protocol
    from ibot_hub.evaluation.labelled import left_out
    from ibot_hub.evaluation.record import record

    asked = None if k is None else protocol.parse_ks(k)
    sides = both_read(train, val)
    protocol.chosen_ks(asked, sum(sides[0].images.values()))  # what is wrong with them, before a model is fetched for nothing
    one, other = both_sides(sides, opened(model, train, val), out, options)
    ks = protocol.chosen_ks(asked, len(one.features))
    too_many = ", ".join(str(k) for k in protocol.KS if asked is None and k not in ks)
    if too_many:
        print(f"k = {too_many} are left out, for there are {len(one.features)} training images", file=sys.stderr)
    report = protocol.knn(one.features.to(computing_device(options)), one.labels, other.features, other.labels, ks)
    settings = {"temperature": protocol.TEMPERATURE}
    results = {**report.numbers, "left_out": left_out(train=one, val=other)}
    answer(record(one.manifest, "knn", {"train": train, "val": val}, settings, results, report.table), out, as_json)


@options_from(LogisticOptions)
def logistic(
    train: Train,
    val: Val,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: LogisticOptions,
) -> None:
    """Train a logistic regression on frozen features (Table 12).

    Of [CLS] at length 1, without intercept, with an L2 penalty that is chosen on held-out training images.
    """
    from ibot_hub.evaluation import logistic as protocol
    from ibot_hub.evaluation.extra import needed
    from ibot_hub.evaluation.labelled import left_out
    from ibot_hub.evaluation.record import record
    from ibot_hub.evaluation.subsets import check_held_out

    needed("sklearn.linear_model")
    sides = both_read(train, val)
    if options.select == "held-out":
        check_held_out(sides[0].images.values())
    one, other = both_sides(sides, opened(model, train, val), out, options)
    report = protocol.logistic(one.features, one.labels, other.features, other.labels, options)
    results = {**report.numbers, "left_out": left_out(train=one, val=other)}
    answer(record(one.manifest, "logistic", {"train": train, "val": val}, _how(options), results, report.table), out, as_json)


@options_from(LogisticOptions)
def lowshot(
    train: Train,
    val: Val,
    model: ModelName = None,
    split: Annotated[list[Path] | None, typer.Option(help=_SPLIT)] = None,
    percent: Annotated[str, typer.Option(help=_PERCENT)] = "1,10",
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: LogisticOptions,
) -> None:
    """Learn from 1 % and 10 % of the training images, on frozen features (Tables 4, 12).

    By k-NN and by logistic regression. What is drawn is kept in OUT/splits, so that another model gets the same.
    """
    from ibot_hub.evaluation.extra import needed
    from ibot_hub.evaluation.knn import KS, TEMPERATURE
    from ibot_hub.evaluation.labelled import left_out
    from ibot_hub.evaluation.lowshot import lowshot as protocol
    from ibot_hub.evaluation.record import record
    from ibot_hub.evaluation.splits import drawn_split, read_split, rows_of
    from ibot_hub.evaluation.subsets import parse_shares

    needed("sklearn.linear_model")
    shares = parse_shares(percent)
    named = {file: read_split(file) for file in split or ()}  # before a model is fetched for nothing
    one, other = both_sides(both_read(train, val), opened(model, train, val), out, options)
    splits = [(file, rows_of(names, one, file)) for file, names in named.items()]
    splits = splits or [drawn_split(one, share, options.seed, out / "splits") for share in shares]
    called = [(str(file) if split else file.stem, rows) for file, rows in splits]
    features = one.features.to(computing_device(options))
    report = protocol(features, one.labels, other.features, other.labels, called, KS, options)
    files = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file, _ in splits}
    settings = {**_how(options), "temperature": TEMPERATURE, "splits": files}
    results = {"splits": report.numbers, "left_out": left_out(train=one, val=other)}
    answer(record(one.manifest, "lowshot", {"train": train, "val": val}, settings, results, report.table), out, as_json)


def _how(options: LogisticOptions) -> dict[str, Any]:
    """What a record says of the regression; how images are seen is in the manifest of their features."""
    return {"select": options.select, "held_out": options.held_out, "seed": options.seed, "scikit-learn": version("scikit-learn")}
