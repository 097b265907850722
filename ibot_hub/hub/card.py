"""The model card of a repository: what a model is, who measured what, how three libraries open it, and where they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ibot_hub.catalog import Checkpoint
from ibot_hub.hub.runs import METRICS, RECIPE, STATE, Score
from ibot_hub.model import Model
from ibot_hub.swin import Swin

PAPER = "https://arxiv.org/abs/2111.07832"
_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC-BY-4.0": "cc-by-4.0", "CC-BY-NC-4.0": "cc-by-nc-4.0", "CC0-1.0": "cc0-1.0"}
_DATASETS = {"ImageNet-1K": "ILSVRC/imagenet-1k"}  # names that the Hugging Face Hub knows
_FITTED = {"crop": "bicubic, centre crop", "squash": "bicubic, squashed to a square", "keep": "bicubic, whole"}


@dataclass(frozen=True)
class Facts:
    """What a card says that the model itself does not know."""

    repo_id: str
    data: str = ""  # what it was trained on; "" where nobody said
    licence: str = ""
    entry: Checkpoint | None = None  # of the catalogue, if these are its very weights
    scores: Sequence[Score] = ()
    deviation: float = 0.0  # largest difference of a number in timm's tokens from these
    files: Sequence[str] = ()
    started_from: str = ""  # of a run: what it went on from
    steps: int = 0  # of a run: after how many its training state was saved, where that is among the files


def scores_of_entry(entry: Checkpoint) -> tuple[Score, ...]:
    """What the authors of a published checkpoint measured."""
    return tuple(Score(f"{name} top-1, %", value, "ImageNet-1K", False, entry.paper) for name, value in entry.metrics.items())


def write_card(model: Model, facts: Facts) -> str:
    """README.md for the Hugging Face Hub: front matter, then the card."""
    sections = [
        _head(model, facts),
        _use(model, facts),
        _exactness(model, facts),
        _numbers(facts),
        _training(facts),
        _files(facts),
        _paper(facts),
    ]
    return f"---\n{_front_matter(model, facts)}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(model: Model, facts: Facts) -> str:
    licence: dict[str, Any] = {}
    if facts.licence in _LICENCES:
        licence = {"license": _LICENCES[facts.licence]}
    elif facts.licence:
        licence = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", facts.licence.lower()).strip("-")}
    results = [
        EvalResult(
            task_type="image-classification" if "top-1" in score.metric else "image-feature-extraction",
            dataset_type=_DATASETS.get(score.data, re.sub(r"[^a-z0-9]+", "-", score.data.lower())),
            dataset_name=score.data,
            metric_type="accuracy" if "top-1" in score.metric else "clustering",
            metric_name=f"{score.metric} ({score.mark})",
            metric_value=round(score.value, 4),
        )
        for score in facts.scores
    ]
    content = ModelCardData(
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        datasets=[_DATASETS[facts.data]] if facts.data in _DATASETS else None,
        tags=["ibot", "ibot-hub", "timm", "transformers", "self-supervised", "swin" if isinstance(model.backbone, Swin) else "vit"],
        model_name=facts.repo_id.rpartition("/")[2],
        eval_results=results or None,
        **licence,
    )
    return content.to_yaml()


def _head(model: Model, facts: Facts) -> str:
    card, prepared, entry = model.card, model.transform, facts.entry
    name = f"# {facts.repo_id.rpartition('/')[2]}"
    network = f"the {card.network} network" if card.network else "a network of which its file does not say whether it is teacher or student"
    kind = "with its projection head (the online tokenizer)" if model.head is not None else "without its projection head"
    said = f"{card.arch}, {network}, {kind}: image features by self-supervised pre-training with [iBOT]({PAPER}) or a method of its layout."
    recorded = "its digest is the one of the catalogue" if card.verified else "its digest is known from its first use only"
    rows = {
        "architecture": f"{card.arch}, tokens {model.widths[-1]} wide, made for {prepared.size} px",
        "network": card.network or "not stated",
        "head": f"K = {model.head.last_layer.weight_v.shape[0]} patterns" if model.head is not None else "",
        "weights": f"those that ibot-hub calls `{entry.name}`" + (f"; {recorded}" if card.verified is not None else "") if entry else "",
        "data": facts.data or "not stated",
        "epochs": str(entry.epochs or "") if entry else f"see {RECIPE}" if RECIPE in facts.files else "",
        "images": f"{_FITTED[prepared.resize]}; mean {_triple(prepared.mean)}, std {_triple(prepared.std)} of red, green, blue in 0..1",
        "licence": facts.licence or "not stated; ask the owner of this repository before you use it",
        "started from": facts.started_from,
        "notes": entry.notes if entry else "",
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)])
    return f"{name}\n\n{said}\n\n{table}"


def _use(model: Model, facts: Facts) -> str:
    patterns = '\npatterns = model.pattern_ids("photo.jpg")  # the most likely pattern of each patch' if model.head is not None else ""
    head = ", head=True" if model.head is not None else ""
    tokens = "[B, H, W, D]" if isinstance(model.backbone, Swin) else "[B, 1 + N, D], [CLS] first"
    return f"""## Use

With [ibot-hub](https://pypi.org/project/ibot-hub) (`pip install ibot-hub`):

```python
import ibot_hub

model = ibot_hub.load("hf-hub:{facts.repo_id}"{head})
tokens = model("photo.jpg")  # tokens.cls [B, D] and tokens.patches [B, H, W, D]{patterns}
```

With timm:

```python
import timm
import torch
from PIL import Image

model = timm.create_model("hf-hub:{facts.repo_id}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    tokens = model.forward_features(transform(Image.open("photo.jpg").convert("RGB"))[None])  # {tokens}
```

With transformers (and timm, whose model it wraps):

```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{facts.repo_id}")
model = AutoModel.from_pretrained("{facts.repo_id}").eval()
with torch.no_grad():
    tokens = model(**processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")).last_hidden_state
```"""


def _exactness(model: Model, facts: Facts) -> str:
    size = model.transform.size
    if facts.deviation:
        apart = f"no number of a token is more than {facts.deviation:.1g} from ibot-hub's"
    else:
        apart = "the tokens are ibot-hub's, bit for bit"
    lines = [
        f"For the same normalised tensor of {size} x {size} pixels, in timm and so in transformers {apart} "
        "(found when this was published, on one tensor of noise, on a CPU in float32).",
    ]
    if isinstance(model.backbone, Swin):
        lines.append("A Swin cannot be said exactly: timm's LayerNorm has eps 1e-5, iBOT's 1e-6, and no config.json changes that.")
    else:
        lines.append("At other sizes they differ: ibot-hub interpolates the position table as iBOT's code does, timm does it otherwise.")
    lines.append("Preparing an image, ibot-hub resizes with torch, the others with Pillow or torchvision: a pixel may be a grey level off.")
    if model.head is not None:
        lines.append("The head is in `ibot.safetensors`, which timm and transformers do not read.")
    return "## What is exact and what is not\n\n" + "\n".join(f"- {line}" for line in lines)


def _numbers(facts: Facts) -> str:
    if not facts.scores:
        return "## Numbers\n\nNone was measured or published."
    rows = [f"| {score.metric} | {score.value:.4g} | {score.data} | {score.mark} | {score.source} |" for score in facts.scores]
    header = ["| metric | value | on | measured or published | by |", "|---|---|---|---|---|"]
    note = ""
    if any(score.measured for score in facts.scores):
        note = "\n\nNumbers on the images of its own training show how the run went; what the model is worth shows on other images."
    return "## Numbers\n\n" + "\n".join([*header, *rows]) + note


def _training(facts: Facts) -> str:
    if STATE[0] not in facts.files:
        return ""
    return f"""## Training goes on

The whole state after step {facts.steps} is here: student, teacher, heads, centres and optimiser. With `pip install 'ibot-hub[train]'`

```console
ibot train --from hf-hub:{facts.repo_id} --data IMAGES --out RUN
ibot train --from hf-hub:{facts.repo_id} --data IMAGES --out RUN --set optimiser.epochs=10
```

starts a run of one's own from it. By the same recipe on the same images it goes on after that step as if it had never stopped; on other
images, or by another recipe for the same network (its name or file before `--from`, or `--set`), its steps and schedules begin at 0."""


def _files(facts: Facts) -> str:
    meanings = {
        "config.json": "the architecture, for timm and transformers",
        "model.safetensors": "the backbone, in timm's names",
        "ibot.safetensors": "what only ibot-hub reads: the network, its head, and what no shape shows",
        "answers.safetensors": "what the model answers to one fixed picture; `ibot verify` asks it again",
        RECIPE: "every number of the run (`ibot train recipe.toml` runs it again)",
        METRICS: "what the run measured, step by step",
        STATE[0]: "student, teacher, their heads, centres and optimiser, from which training goes on; no other library needs it",
        STATE[1]: "the digest of that, and after how many steps it was saved",
    }
    return "## Files\n\n" + "\n".join(f"- `{name}`: {meanings[name]}" for name in facts.files if name in meanings)


def _paper(facts: Facts) -> str:
    weights = f"The weights are described in {facts.entry.paper}. " if facts.entry else ""
    return f"## Papers\n\n{weights}iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022, [arXiv:2111.07832]({PAPER})."


def _triple(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
