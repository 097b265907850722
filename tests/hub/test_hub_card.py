"""A card says what is known, who measured what, and nothing else."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ibot_hub.catalog import info
from ibot_hub.hub.card import Facts, scores_of_entry, write_card
from ibot_hub.hub.runs import RECIPE, STATE, Score
from ibot_hub.loading import load
from ibot_hub.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", head=True)


def test_front_matter_and_numbers_of_a_published_model(model: Model) -> None:
    entry = info("vit_b16")
    mine = Score("NMI of patterns and classes", 0.5, "my pictures", True, "me")
    facts = Facts("org/vit", entry.data, entry.licence, entry, (*scores_of_entry(entry), mine), files=["config.json"])
    text = write_card(model, facts)
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "timm", "image-feature-extraction")
    assert data.datasets == ["ILSVRC/imagenet-1k"]
    assert {"ibot", "transformers", "vit"} <= set(data.tags or ())
    results = {result.metric_name: (result.metric_value, result.dataset_name) for result in data.eval_results or ()}
    assert results == {
        "k-NN top-1, % (published)": (77.1, "ImageNet-1K"), "linear top-1, % (published)": (79.5, "ImageNet-1K"),
        "fine-tuned top-1, % (published)": (84.0, "ImageNet-1K"), "NMI of patterns and classes (measured)": (0.5, "my pictures"),
    }  # fmt: skip
    assert "| k-NN top-1, % | 77.1 | ImageNet-1K | published | iBOT, ICLR 2022 (arXiv:2111.07832) |" in text
    assert "| NMI of patterns and classes | 0.5 | my pictures | measured | me |" in text
    assert "those that ibot-hub calls `vit_b16`" in text
    assert text.count('"hf-hub:org/vit"') == 2
    assert 'from_pretrained("org/vit")' in text
    assert "the teacher network" in text
    assert "K = 1024 patterns" in text


def test_what_nobody_said_is_not_made_up(model: Model) -> None:
    text = write_card(model, Facts("org/own", licence="Owkin non-commercial"))
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "owkin-non-commercial")
    assert data.eval_results is None
    assert data.datasets is None
    assert "None was measured or published." in text
    assert "| data | not stated |" in text
    text = write_card(model, Facts("org/own"))
    assert ModelCard(text).data.license is None
    assert "| licence | not stated; ask the owner" in text


def test_what_is_exact_follows_what_was_found(model: Model, golden: Path) -> None:
    assert "bit for bit" in write_card(model, Facts("org/vit"))
    swin = write_card(load(golden / "swin_micro_w7_checkpoint.pth", head=False), Facts("org/swin", deviation=0.00123))
    assert "no number of a token is more than 0.001 from ibot-hub's" in swin
    assert "bit for bit" not in swin
    assert "A Swin cannot be said exactly" in swin
    assert "head=True" not in swin
    assert "pattern_ids" not in swin


def test_how_training_goes_on_is_said_where_the_state_is(model: Model) -> None:
    text = write_card(model, Facts("org/run", files=[RECIPE, *STATE], started_from="`vit_b16`", steps=1234))
    assert "The whole state after step 1234 is here" in text
    assert "\nibot train --from hf-hub:org/run --data IMAGES --out RUN\n" in text
    assert "- `training/state.safetensors`: student, teacher, their heads, centres and optimiser" in text
    assert "| started from | `vit_b16` |" in text
    text = write_card(model, Facts("org/run", files=[RECIPE]))
    assert "ibot train --from" not in text
    assert "started from" not in text
