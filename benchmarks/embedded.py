"""How well the embedded model tells classes apart, beside raw pixels and a network that learned nothing.

    python -m benchmarks.embedded --val DIR --train DIR --cifar-train DIR --cifar-test DIR
    python -m benchmarks.embedded RUN ...          a run's folder, or any model, in place of the three; --quick to see that all runs
    python -m benchmarks.embedded --report OUT ...                        the protocols of `ibot eval report` instead of k-NN alone

Weighted k-NN (k = 20, T = 0.07) of images that no training saw, in class folders. Tiny ImageNet: in each class of --val, images in the
order of their names, the even ones (the first, the third, ...) are the index, the odd ones the queries. "seen" are the queries of classes
that have a folder in --train, "unseen" the others; the index is the same for all. CIFAR-10: --cifar-train is the index, --cifar-test the
queries. An image is squashed to the size of `tiny`, which Tiny ImageNet has already, and normalised; its feature is [CLS] in float32.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

import ibot_hub
from benchmarks.measure import machine, verdict
from ibot_hub.devices import choose_devices
from ibot_hub.evaluation import labelled as hub
from ibot_hub.evaluation.frozen import evaluate, folder_of, measure
from ibot_hub.evaluation.knn import knn
from ibot_hub.evaluation.options import ReportOptions
from ibot_hub.evaluation.page import curves, summary, write_page
from ibot_hub.features.store import Manifest
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.versions import versions
from ibot_hub.vit import ViT

PIXELS, UNTRAINED, EMBEDDED = "pixels", "untrained", "tiny"
K, TEMPERATURE = 20, 0.07
TARGET = 1.5  # times the pixels, on all classes; for two CPU cores
BATCH = 100  # images
QUICK = 10  # every tenth image
EPOCHS = 20  # of the linear probe in --report
COLUMNS = ("all", "seen", "unseen", "CIFAR-10 (JPEG copy)")
Extract = Callable[[list[Image]], Tensor]  # images -> [B, D]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images in class folders, by class, then in the order of their names."""

    paths: list[Path]
    labels: Tensor  # int64 [N], places in `classes`
    classes: list[str]  # sorted

    def part(self, chosen: Tensor) -> "Labelled":
        """Those of bool [N]."""
        return Labelled([path for path, mine in zip(self.paths, chosen.tolist(), strict=True) if mine], self.labels[chosen], self.classes)

    def even(self) -> Tensor:
        """Whether an image is the first, the third, ... of its class, [N]."""
        counts = torch.bincount(self.labels)
        return (torch.arange(len(self.labels)) - (counts.cumsum(0) - counts)[self.labels]) % 2 == 0


def labelled(folder: Path, step: int) -> Labelled:
    """Every `step`-th image of each class folder."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    by_class = [sorted((folder / name).iterdir())[::step] for name in classes]
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(paths) for paths in by_class]))
    return Labelled([path for paths in by_class for path in paths], labels, classes)


def extractor(name: str) -> Extract:
    """What makes features: the normalised pixels, the embedded network with the weights that training starts from, or a model."""
    device = choose_devices("auto")[0]
    model = ibot_hub.load(EMBEDDED if name in (PIXELS, UNTRAINED) else name, head=False, device=device)
    if name == UNTRAINED:
        model.backbone = untrained(model).to(device)
    transform = replace(model.transform, resize="squash")
    if name == PIXELS:
        return lambda images: torch.stack([transform(image).flatten() for image in images])
    return lambda images: model(images, transform=transform).cls


def untrained(model: Model, seed: int = 0) -> ViT:
    """A ViT of the same shape, its weights drawn as the official code draws them."""
    torch.manual_seed(seed)
    shape: Any = model.backbone  # timm's attributes are typed as if they might be anything
    network = ViT(
        img_size=model.transform.size,
        patch_size=shape.patch,
        embed_dim=shape.embed_dim,
        depth=len(shape.blocks),
        num_heads=shape.blocks[0].attn.num_heads,
    )
    network.eval()
    return network


@torch.inference_mode()
def features(extract: Extract, data: Labelled) -> Tensor:
    """float32 [N, D] on the device of the model."""
    rows = torch.empty(0)
    for start in range(0, len(data.paths), BATCH):
        batch = extract([decode(path) for path in data.paths[start : start + BATCH]])
        if not start:
            rows = batch.new_empty(len(data.paths), batch.shape[1])  # of pixels there may be gigabytes: never twice
        rows[start : start + BATCH] = batch
    return rows


def tiny_imagenet(extract: Extract, data: Labelled, seen_classes: set[str]) -> dict[str, float]:
    """Top-1 in per cent of all queries, of those of seen classes, and of the others."""
    rows, index = features(extract, data), data.even()
    report = knn(rows[index], data.labels[index], rows[~index], data.labels[~index], [K], TEMPERATURE)
    seen = torch.tensor([name in seen_classes for name in data.classes])[data.labels[~index]]
    correct = report.correct[0].double() * 100
    return {"all": report.top1[0], "seen": correct[seen].mean().item(), "unseen": correct[~seen].mean().item()}


def cifar(extract: Extract, index: Labelled, queries: Labelled) -> dict[str, float]:
    """Top-1 in per cent."""
    report = knn(features(extract, index), index.labels, features(extract, queries), queries.labels, [K], TEMPERATURE)
    return {COLUMNS[3]: report.top1[0]}


def frozen(names: list[str], out: Path, title: str, train: Labelled, asked: Labelled) -> None:
    """The frozen protocols of raw pixels and models beside each other, on images that train and images that are asked."""
    print(f"\n{title}: {len(train.paths)} images train, {len(asked.paths)} are asked", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    one, other = _listed(train, out / "train.txt"), _listed(asked, out / "val.txt")
    tiny = ibot_hub.load(EMBEDDED, head=True)
    evaluations = []
    for name in names:
        model = opened(name, tiny)
        if model is None:
            sides = of_pixels(train, one, tiny), of_pixels(asked, other, tiny)
            data = {"train": str(one), "val": str(other)}
            done = measure(sides, sides, data, out / PIXELS, ReportOptions(epochs=EPOCHS))
        else:
            done = evaluate(model, one, other, out / folder_of(model), resize="squash", epochs=EPOCHS)
        evaluations.append(done)
        print(summary([done]).text(), flush=True)
    write_page(evaluations, curves(evaluations), out)
    print(f"{summary(evaluations).markdown()}\nwritten to {out / 'report.html'}", flush=True)


def opened(name: str, tiny: Model) -> Model | None:
    """The model, of which the untrained one is as `tiny` before its first step; None for pixels."""
    if name == UNTRAINED:
        return Model(untrained(tiny), None, None, tiny.transform, replace(tiny.card, name=UNTRAINED, network=None)).eval()
    return None if name == PIXELS else tiny if name == EMBEDDED else ibot_hub.load(name)


def of_pixels(data: Labelled, listed: Path, tiny: Model) -> hub.Labelled:
    """The normalised pixels of images as features of no network."""
    rows, transform = features(extractor(PIXELS), data), tiny.transform
    facts: dict[str, Any] = {
        "size": transform.size,
        "resize": "squash",
        "patch": transform.patch,
        "mean": transform.mean,
        "std": transform.std,
    }
    manifest = Manifest(
        model=PIXELS, arch=PIXELS, network=None, weights="none", source=str(listed), images=len(rows), listing="", preprocessing=facts,
        tokens="cls", layers=1, pool="cls", dtype="float32", batch_size=BATCH, format="safetensors", shard_size=len(rows), device="cpu",
        columns={"feature": [rows.shape[1]]}, versions=versions(),
    )  # fmt: skip
    return hub.Labelled(rows, data.labels, tuple(data.classes), tuple(map(str, data.paths)), manifest, ())


def _listed(data: Labelled, file: Path) -> Path:
    file.write_text("".join(f"{path.absolute()}\n" for path in data.paths))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[PIXELS, UNTRAINED, EMBEDDED], help="default: %(default)s; else names, files, runs")
    parser.add_argument("--val", type=Path, required=True, metavar="DIR", help="labelled images: index and queries")
    parser.add_argument("--train", type=Path, required=True, metavar="DIR", help="what was trained on; the names of its folders are read")
    parser.add_argument("--cifar-train", type=Path, metavar="DIR", help="the index; without it, no CIFAR-10")
    parser.add_argument("--cifar-test", type=Path, metavar="DIR", help="the queries")
    parser.add_argument("--quick", action="store_true", help=f"every {QUICK}th image of a class: to see that all runs")
    parser.add_argument(
        "--report", type=Path, metavar="OUT", help="write pages of the frozen protocols there, and no k-NN by seen and unseen classes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    step = QUICK if options.quick else 1
    val = labelled(options.val, step)
    seen = set(labelled(options.train, step).classes)
    if options.report:
        even = val.even()
        frozen(options.models, options.report / "tiny-imagenet", "Tiny ImageNet, validation", val.part(even), val.part(~even))
        if options.cifar_train:
            sides = (labelled(folder, step) for folder in (options.cifar_train, options.cifar_test))
            frozen(options.models, options.report / "cifar-10", COLUMNS[3], *sides)
        return
    report: dict[str, Any] = {"machine": machine(), "k": K, "temperature": TEMPERATURE, "images": len(val.paths), "top-1": {}}
    print(f"{len(val.paths)} images of {len(val.classes)} classes, {len(seen & set(val.classes))} of them seen in training")
    for name in options.models:
        started = time.perf_counter()
        extract = extractor(name)
        row = tiny_imagenet(extract, val, seen)
        if options.cifar_train:
            row |= cifar(extract, labelled(options.cifar_train, step), labelled(options.cifar_test, step))
        report["top-1"][name] = row
        print(f"{name}: {time.perf_counter() - started:.0f} s", {column: round(value, 2) for column, value in row.items()}, flush=True)
        if options.json:  # after each model, because each takes minutes
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    show(report["top-1"])


def show(rows: dict[str, dict[str, float]]) -> None:
    """A Markdown table, and the target where all it takes was measured."""
    columns = [name for name in COLUMNS if name in next(iter(rows.values()))]
    print(f"\n| top-1, % | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.2f}' for column in columns)} |")
    if PIXELS in rows and EMBEDDED in rows:
        print(f"\n{EMBEDDED} / {PIXELS}, all: {verdict(rows[EMBEDDED]['all'] / rows[PIXELS]['all'], TARGET, at_least=True)}")


if __name__ == "__main__":
    main()
