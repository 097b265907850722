"""Plans: what is written down of a run, and what stands when it is planned again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ibot_hub.features.plan import plan_extraction, transform_of, weights_digest
from ibot_hub.features.store import Manifest
from ibot_hub.loading import load
from ibot_hub.options import ExtractOptions
from ibot_hub.origin import Origin
from ibot_hub.vit import ViT
from ibot_hub.weights import Weights, save


def planned(golden: Path, photos: Path, folder: Path, **options: Any) -> Manifest:
    model = load(golden / "vit_micro_checkpoint.pth")
    return plan_extraction(model, str(photos), folder, ExtractOptions(**options), torch.device("cpu"), None)[0]


def test_what_is_left_open_is_filled_in(golden: Path, photos: Path, tmp_path: Path) -> None:
    vectors = planned(golden, photos, tmp_path / "a")
    assert (vectors.batch_size, vectors.shard_size, vectors.network, vectors.images) == (8, 1000, "teacher", 16)
    assert vectors.columns == {"feature": [128]}
    maps = planned(golden, photos, tmp_path / "b", tokens="both", size=100, layers=2, pool="cls+mean")
    assert maps.shard_size == 100
    assert maps.columns == {"feature": [384], "patches": [6, 6, 256]}
    assert planned(golden, photos, tmp_path / "c", tokens="patches", resize="keep").columns == {"patches": None}


def test_images_that_came_later_are_not_seen(golden: Path, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("cat_chelsea.jpg", "coffee.jpg"):
        (source / name).write_bytes((photos / name).read_bytes())
    assert planned(golden, source, tmp_path / "out").images == 2
    (source / "coffee2.jpg").write_bytes(b"")
    assert planned(golden, source, tmp_path / "out").images == 2


def test_the_transform_comes_back(golden: Path, photos: Path, tmp_path: Path) -> None:
    manifest = planned(golden, photos, tmp_path / "out", size=96, resize="squash", mean=(0.1, 0.2, 0.3))
    transform = transform_of(Manifest.from_json(manifest.to_json()))
    assert (transform.size, transform.resize, transform.mean) == (96, "squash", (0.1, 0.2, 0.3))


def test_the_model_knows_how_its_images_are_fitted(golden: Path, photos: Path, tmp_path: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    model.transform = replace(model.transform, resize="squash")
    for asked, found in ((None, "squash"), ("crop", "crop")):
        options = ExtractOptions(resize=asked)
        manifest = plan_extraction(model, str(photos), tmp_path / found, options, torch.device("cpu"), None)[0]
        assert manifest.preprocessing["resize"] == found


def test_the_digest_is_of_the_tensors_not_of_the_container(golden: Path, tmp_path: Path) -> None:
    model = load(golden / "vit_micro_checkpoint.pth")
    save(Weights(model.backbone.state_dict(), None, None, Origin()), tmp_path / "copy.safetensors")
    assert weights_digest(load(tmp_path / "copy.safetensors").backbone) == weights_digest(model.backbone)
    other: ViT = load(golden / "vit_micro_checkpoint.pth", network="student").backbone
    assert weights_digest(other) != weights_digest(model.backbone)
