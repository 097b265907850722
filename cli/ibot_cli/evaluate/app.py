"""The commands of `ibot eval`, each of which names the table of the paper that it measures."""

import typer

from ibot_cli.evaluate import clusters, features, linear, localization, matching, moving, report, robustness, search

app = typer.Typer(no_args_is_help=True, help="Measure how good a model's features are.")
app.command("knn")(features.knn)
app.command("logistic")(features.logistic)
app.command("lowshot")(features.lowshot)
app.command("cluster")(clusters.cluster)
app.command("linear")(linear.linear)
app.command("parts")(linear.parts)
app.command("occlusion")(robustness.occlusion)
app.command("shuffle")(robustness.shuffle)
app.command("report")(report.report)
app.command("correspondence")(matching.correspondence)
app.command("pair")(matching.pair)
app.command("retrieval")(search.retrieval)
app.command("revisited")(search.revisited)
app.command("copy")(search.copy)
app.command("video")(moving.video)
app.command("localize")(localization.localize)
