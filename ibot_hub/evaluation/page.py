"""Evaluations of one or two models become a page: Markdown for a model card, HTML for a browser, and their pictures."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ibot_hub.attention import attention_maps
from ibot_hub.draw.attention import draw_attention
from ibot_hub.draw.curves import draw_curves
from ibot_hub.errors import ImageError, SourceError, StoreError, UsageError
from ibot_hub.evaluation.crops import entries_of
from ibot_hub.evaluation.frozen import Evaluation
from ibot_hub.evaluation.record import Record
from ibot_hub.evaluation.table import Cell, Table
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.swin import Swin

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}small{color:#666}"""
PHOTOS = 3  # whose attention is shown
CAPTIONS = {  # of pictures, by the second word of their names
    "knn": "Top-1 of k-NN by the number of neighbours.",
    "attention": "A validation image and the patches that the attention heads of {model} look at most.",
}


def summary(evaluations: Sequence[Evaluation]) -> Table:
    """The number of each protocol that is quoted, a column for each model; None where it has no such number."""
    for other in evaluations[1:]:
        for one, two in zip(evaluations[0].records, other.records, strict=True):
            if one.data != two.data:
                raise UsageError(f"{evaluations[0].model} was measured on {dict(one.data)}, {other.model} on {dict(two.data)}.")
    quoted = [_quoted(one) for one in evaluations]
    names = dict.fromkeys(name for numbers in quoted for name in numbers)
    rows: list[tuple[Cell, ...]] = [(name, *(numbers.get(name) for numbers in quoted)) for name in names]
    return Table("In per cent", ("measure", *_names(evaluations)), tuple(rows))


def curves(evaluations: Sequence[Evaluation]) -> dict[str, Image.Image]:
    """The picture of top-1 by neighbours, a curve for each model, by file name."""
    found = [_of(one, "knn").results for one in evaluations]
    near = {name: list(zip(r["k"], r["top1"], strict=True)) for name, r in zip(_names(evaluations), found, strict=True)}
    return {"report-knn.png": draw_curves(near, title="k-NN", across="neighbours", up="top-1, per cent", logarithmic=True)}


def attention(model: Model, evaluation: Evaluation) -> dict[str, Image.Image]:
    """Attention strips of the first validation images of some classes, by file name; none of a Swin, which has no [CLS],
    or where the images have gone."""
    if isinstance(model.backbone, Swin):
        return {}
    val = evaluation.val
    first = dict(zip(reversed(val.labels.tolist()), reversed(val.paths), strict=True))  # of each class
    chosen = [first[label] for label in sorted(first)[:: max(1, len(first) // PHOTOS)][:PHOTOS]]
    try:
        photos = [decode(entry.read()) for entry in entries_of(val.manifest.source, chosen)]
    except (SourceError, ImageError, UsageError):  # features whose images have gone, or came through a pipe: the numbers stand without them
        return {}
    return {f"report-attention-{number}.png": draw_attention(photo, attention_maps(model, photo)) for number, photo in enumerate(photos, 1)}


def write_page(evaluations: Sequence[Evaluation], pictures: Mapping[str, Image.Image], out: Path) -> tuple[Path, Path]:
    """report.md and report.html in the folder `out`, and the pictures beside them. Raises StoreError where they cannot be written."""
    blocks = _blocks(evaluations)
    names = _names(evaluations)
    title = " beside ".join(names)
    captions = {name: CAPTIONS[re.split(r"\W", name)[1]].format(model=names[0]) for name in pictures}
    markdown = [
        f"# Frozen evaluation of {title}",
        *(f"## {head}\n\n{table.markdown()}\n\n{words}".rstrip() for head, table, words in blocks),
    ]
    markdown += [f"![{caption}]({name})\n\n*{caption}*" for name, caption in captions.items()]
    html = [f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"]
    html += [f"<h1>Frozen evaluation of {escape(title)}</h1>"]
    html += [f"<h2>{escape(head)}</h2>\n{table.html()}\n<p><small>{escape(words)}</small></p>" for head, table, words in blocks]
    html += [
        f'<figure><img src="{name}" alt="{escape(caption)}"><figcaption><small>{escape(caption)}</small></figcaption></figure>'
        for name, caption in captions.items()
    ]
    files = {"report.md": "\n\n".join(markdown) + "\n", "report.html": "\n".join(html) + "\n"}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            picture.save(out / name)
        for file, text in files.items():
            (out / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"The page cannot be written to {out} ({error.strerror or error}); free space, or choose another --out."
        ) from error
    return out / "report.md", out / "report.html"


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of the models; of files and runs the ends of their paths, where these tell them apart."""
    full = [one.model for one in evaluations]
    short = ["/".join(Path(name).parts[1:][-2:]) if Path(name).is_absolute() else name for name in full]
    return short if len(set(short)) == len(short) else full


def _quoted(evaluation: Evaluation) -> dict[str, float]:
    near, groups = _of(evaluation, "knn").results, _of(evaluation, "cluster").results
    best = near["k"].index(20) if 20 in near["k"] else 0
    numbers = {f"k-NN, k = {near['k'][best]}, top-1": near["top1"][best]}
    numbers["logistic regression, top-1"] = _of(evaluation, "logistic").results["top1"]
    numbers["linear probing without augmentation, top-1"] = _of(evaluation, "linear").results["top1"]
    for way in groups["ways"]:
        numbers[f"clusters by {way['way']}, NMI"] = 100 * way["agreement"]["nmi"]
    return numbers


def _of(evaluation: Evaluation, protocol: str) -> Record:
    return next(record for record in evaluation.records if record.protocol == protocol)


def _blocks(evaluations: Sequence[Evaluation]) -> list[tuple[str, Table, str]]:
    """Heading, table and a line of small print each: the summary, then every protocol of every model."""
    blocks = [("Summary", summary(evaluations), "")]
    for name, one in zip(_names(evaluations), evaluations, strict=True):
        for record in one.records:
            data = ", ".join(f"{side}: {place}" for side, place in record.data.items())
            made = f"{record.arch}, {record.network or 'network not stated'}, weights {record.weights[:12]}"
            seen = record.settings["preprocessing"]
            made += f"; images at {seen['size']} px ({seen['resize']}), {record.settings['dtype']}"
            versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
            head, _, rest = record.table.title.partition("\n")
            blocks.append((f"{name}: {head}", record.table, f"{rest + '. ' if rest else ''}{made}; {data}; {versions}."))
    return blocks
