"""What a run's folder tells is taken from it, or its damage is told."""

import json
from pathlib import Path

import pytest

from ibot_hub.errors import StoreError
from ibot_hub.hub.runs import Score, scores_of_run, started_from, steps_of


def test_numbers_of_a_run_are_the_last_of_each(tmp_path: Path) -> None:
    assert scores_of_run(tmp_path) == ()
    lines = ['{"step": 5, "loss": 9.5, "knn20": 10.0, "nmi": 0.1}', '{"step": 9, "nmi": 0.2, "ari": null}', '{"step": 10, "loss": 8.5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    images = "images that the run was trained on"
    assert scores_of_run(tmp_path) == (
        Score("k-NN top-1 (k = 20), %", 10.0, images, True, "the run itself, at step 5"),
        Score("NMI of patterns and classes", 0.2, images, True, "the run itself, at step 9"),
    )
    for damaged in ("{", "[1]", '{"nmi": 0.5}'):
        (tmp_path / "metrics.jsonl").write_text(damaged)
        with pytest.raises(StoreError, match=r"metrics\.jsonl is damaged"):
            scores_of_run(tmp_path)


def test_a_place_on_the_owners_disk_is_told_to_nobody(tmp_path: Path) -> None:
    assert started_from(tmp_path) == ""
    for exactly, told in (
        ("vit_b16", "`vit_b16`"),
        ("hf-hub:org/name@0123", "`hf-hub:org/name@0123`"),
        ("/home/me/secret/run", "a run or model that its owner has"),
    ):
        (tmp_path / "from.json").write_text(json.dumps({"exactly": exactly}))
        assert started_from(tmp_path) == told
    for damaged in ("{", "[1]", "{}", '{"exactly": 1}'):
        (tmp_path / "from.json").write_text(damaged)
        with pytest.raises(StoreError, match=r"from\.json is damaged"):
            started_from(tmp_path)


def test_a_checkpoint_says_its_step(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"step": 30}')
    assert steps_of(tmp_path) == 30
    for damaged in ("{", "[1]", "{}"):
        (tmp_path / "state.json").write_text(damaged)
        with pytest.raises(StoreError, match=f"^{tmp_path} is no checkpoint of a run: "):
            steps_of(tmp_path)
