"""What containers say beside their tensors; the tokens that follow from it are compared in test_weights.py."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ibot_hub.errors import WeightsError
from ibot_hub.origin import Origin, origin_of_folder, origin_of_metadata


def folder(path: Path, config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    if preprocessor:
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return path


def test_metadata_comes_back(tmp_path: Path) -> None:
    origin = Origin("student", "full", 6, 1e-6, (0.1, 0.2, 0.3), None)
    assert origin_of_metadata(tmp_path, json.dumps(asdict(origin))) == origin
    for text in ("{", "[]", '{"network": "teacher", "colour": 1}'):
        with pytest.raises(WeightsError, match="metadata `ibot_hub` cannot be read"):
            origin_of_metadata(tmp_path, text)


def test_a_transformers_folder(tmp_path: Path) -> None:
    assert origin_of_folder(folder(tmp_path, {"model_type": "vit"})) == Origin(None, "transformers", 12, 1e-12)
    said = {"model_type": "vit", "num_attention_heads": 3, "layer_norm_eps": 1e-6}
    found = origin_of_folder(folder(tmp_path, said, {"image_mean": [0, 0.5, 1], "image_std": [1, 1, 1]}))
    assert found == Origin(None, "transformers", 3, 1e-6, (0.0, 0.5, 1.0), (1.0, 1.0, 1.0))
    squashed = found_resize(tmp_path, {"size": {"height": 224, "width": 224}})
    assert (squashed, found_resize(tmp_path, {"size": {"height": 256, "width": 256}, "do_center_crop": True})) == ("squash", None)
    assert found_resize(tmp_path, {"size": {"shortest_edge": 256}}) is None
    folder(tmp_path, said, {"image_mean": [0, 0.5, 1], "image_std": [1, 1, 1]})
    swin = origin_of_folder(folder(tmp_path, {"model_type": "swin", "layer_norm_eps": 1e-5, "num_heads": [3, 6]}))
    assert swin == Origin(None, "transformers", None, None, (0.0, 0.5, 1.0), (1.0, 1.0, 1.0))


def found_resize(path: Path, preprocessor: dict[str, Any]) -> str | None:
    return origin_of_folder(folder(path, {"model_type": "vit"}, preprocessor)).resize


def test_a_timm_folder(tmp_path: Path) -> None:
    config = {"architecture": "vit_huge_patch14_224", "model_args": {"embed_dim": 1280}, "pretrained_cfg": {"mean": [0.5] * 3}}
    assert origin_of_folder(folder(tmp_path, config)) == Origin(None, "timm", 16, 1e-6, (0.5, 0.5, 0.5))
    for architecture in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        squashed = {"architecture": architecture, "pretrained_cfg": {"crop_mode": "squash"}}
        assert origin_of_folder(folder(tmp_path, squashed)).resize == "squash"
    assert origin_of_folder(folder(tmp_path, {"architecture": "swin_tiny_patch4_window7_224"})) == Origin(None, "timm")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "describes 'bert'"),
        ({}, "describes 'nothing known'"),
        ({"model_type": "vit", "hidden_act": "relu"}, "activation 'relu'"),
        ({"architecture": "vit_of_nobody"}, "cannot make"),
        ({"architecture": "vit_tiny_patch16_224", "mean": [1, 2]}, "takes three numbers"),
    ],
)
def test_what_is_neither(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        origin_of_folder(folder(tmp_path, config))
