"""`ibot eval cluster`: how well classes come out of images without labels."""

from importlib.metadata import version

from ibot_cli.evaluate.arguments import OUT, Out, Val, answer, one_side, opened
from ibot_cli.models import AsJson, ModelName
from ibot_cli.options import options_from
from ibot_hub.evaluation.options import ClusterOptions


@options_from(ClusterOptions)
def cluster(
    val: Val,
    model: ModelName = None,
    out: Out = OUT,
    as_json: AsJson = False,
    *,
    options: ClusterOptions,
) -> None:
    """Lay clusters of images beside their classes (Table 5).

    By k-means on [CLS] at length 1, and where the model has a head by the pattern that it finds most likely.
    """
    from ibot_hub.evaluation.class_folders import read_classes
    from ibot_hub.evaluation.clustering import check_clusters
    from ibot_hub.evaluation.clustering import cluster as protocol
    from ibot_hub.evaluation.extra import needed
    from ibot_hub.evaluation.labelled import left_out
    from ibot_hub.evaluation.record import record

    for module in ("sklearn.cluster", "scipy.optimize"):
        needed(module)
    folders = read_classes(val)
    check_clusters(folders.images, sum(folders.images.values()), options, val)
    loaded = opened(model, val, head=True if options.by == "head" else None)
    side = one_side(folders, loaded, out, options)
    report = protocol(side, loaded, options)
    used = {"scikit-learn": version("scikit-learn"), "scipy": version("scipy")}
    settings = {"by": options.by, "seed": options.seed, **used}
    results = {**report.numbers, "left_out": left_out(val=side)}
    answer(record(side.manifest, "cluster", {"val": val}, settings, results, report.table), out, as_json)
