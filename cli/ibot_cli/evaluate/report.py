"""`ibot eval report`: the frozen set of one model, or of two beside each other, as a page."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.evaluate.arguments import OUT, Out, Train, Val, both_read
from ibot_cli.models import DEFAULT, AsJson, chosen_model
from ibot_cli.options import options_from
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.options import ReportOptions


@options_from(ReportOptions)
def report(
    train: Train,
    val: Val,
    model: Annotated[str | None, typer.Argument(help="A name, a file, a folder or hf-hub:org/name; default: tiny.")] = None,
    against: Annotated[str | None, typer.Option("--against", help="Another model, to stand beside it.")] = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: ReportOptions,
) -> None:
    """Measure k-NN, logistic regression, linear probing and clusters (Tables 1, 5, 12), and write a page.

    One pass over the images serves all of them. The page, report.md and report.html with its pictures, can go on a model card.
    """
    from ibot_hub.draw.curves import check_matplotlib
    from ibot_hub.evaluation.extra import needed
    from ibot_hub.evaluation.frozen import evaluate, folder_of
    from ibot_hub.evaluation.knn import chosen_ks
    from ibot_hub.evaluation.page import attention, curves, summary, write_page
    from ibot_hub.evaluation.record import as_json as in_json
    from ibot_hub.evaluation.subsets import check_held_out
    from ibot_hub.loading import load

    check_matplotlib()
    for module in ("sklearn.linear_model", "scipy.optimize"):
        needed(module)
    if against and against == (model or DEFAULT):
        raise UsageError(f"--against {against} is the model itself; name another one.")
    sides = both_read(train, val)
    if against and None in (folders.state for folders in sides):
        raise UsageError("--against lets two models see the images; give the folders of class folders, not features of one model.")
    chosen_ks(None, sum(sides[0].images.values()))  # all this before a model is fetched for nothing
    check_held_out(sides[0].images.values())
    evaluations, pictures = [], {}
    for name in (chosen_model(model), *([against] if against else [])):
        loaded = load(name)
        print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
        evaluations.append(evaluate(loaded, train, val, out / folder_of(loaded), options))
        if name != against:
            pictures = attention(loaded, evaluations[-1])
    page, html = write_page(evaluations, {**curves(evaluations), **pictures}, Path(out))
    table = summary(evaluations)
    records = [[json.loads(in_json(done)) for done in one.records] for one in evaluations] if as_json else []
    print(json.dumps(records, indent=2) if as_json else table.text())
    print(f"written to {page} and {html}", file=sys.stderr)
