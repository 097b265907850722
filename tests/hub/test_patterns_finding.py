"""Atlases and compositions of real photographs, against the official rules taken word by word."""

import dataclasses
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ibot_hub.attention import ATTENTION, COSINE
from ibot_hub.errors import SourceError, UsageError, WeightsError
from ibot_hub.head import Head
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.patterns import finding as patterns_module
from ibot_hub.patterns.atlas import PatternAtlas
from ibot_hub.patterns.finding import check_head, compose, find_patterns


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture(scope="module")
def atlas(model: Model, photos: Path) -> PatternAtlas:
    return find_patterns(model, photos, dtype="float32", members=3)


def kept(atlas: PatternAtlas) -> list[list[tuple[str, int, int]]]:
    return [[(member.path, member.row, member.column) for member in atlas.members(pattern)] for pattern in range(len(atlas.sizes))]


def test_equals_the_official_rules(model: Model, photos: Path, atlas: PatternAtlas) -> None:
    """Every patch to the pattern of its highest logit; of an image the best patch; the best images first, twice as many as shown."""
    sizes = np.zeros(96, int)
    found: dict[int, list[tuple[float, str, int, int]]] = defaultdict(list)
    for path in sorted(photos.iterdir()):
        answer = model.pattern_ids(path)
        ids, logits = answer.ids[0], answer.confidences[0]
        sizes += np.bincount(ids.flatten(), minlength=96)
        for pattern in ids.unique().tolist():
            best = int(torch.where(ids == pattern, logits, -torch.inf).argmax())
            found[pattern].append((-float(logits.flatten()[best]), path.name, *divmod(best, 14)))
    assert atlas.sizes.tolist() == sizes.tolist()
    expected = [[(path, row, column) for _, path, row, column in sorted(found[pattern])[:6]] for pattern in range(96)]
    assert kept(atlas) == expected
    logits = [member.confidence for pattern in range(96) for member in atlas.members(pattern)]
    assert logits == pytest.approx([-logit for pattern in range(96) for logit, *_ in sorted(found[pattern])[:6]], abs=1e-5)
    assert (atlas.facts.images, atlas.facts.failed, atlas.facts.members, atlas.facts.of) == (16, 0, 3, "patches")


@pytest.mark.parametrize("size", [1, 5])
def test_the_batch_size_changes_nothing(model: Model, photos: Path, atlas: PatternAtlas, size: int) -> None:
    other = find_patterns(model, photos, dtype="float32", members=3, batch_size=size, workers=1)
    assert kept(other) == kept(atlas)
    assert other.sizes.tolist() == atlas.sizes.tolist()


def test_images_of_several_shapes_and_a_part_of_the_source(model: Model, photos: Path) -> None:
    keep = find_patterns(model, photos, dtype="float32", limit=6, size=64, resize="keep", per_image=100, members=500)
    fits = [keep.transform.fit(*decode(path).size) for path in sorted(photos.iterdir())[:6]]
    assert len({(fit.rows, fit.columns) for fit in fits}) > 1
    assert keep.sizes.sum() == sum(fit.rows * fit.columns for fit in fits)
    places = [member for members in kept(keep) for member in members]
    assert len(set(places)) == keep.sizes.sum()
    assert {name for name, _, _ in places} == {path.name for path in sorted(photos.iterdir())[:6]}


def test_images_of_a_shard_are_found_where_they_are(model: Model, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in sorted(photos.iterdir())[:3]:
            tar.add(path, path.name)
    atlas = find_patterns(model, tmp_path / "shard.tar", dtype="float32")
    member = atlas.members(atlas.top(1)[0])[0]
    assert member.entry is not None
    assert member.entry.read() == (photos / Path(member.path).name).read_bytes()


def test_whole_images_go_to_patterns_by_their_cls(model: Model, photos: Path) -> None:
    atlas = find_patterns(model, photos, dtype="float32", of="cls", members=4)
    assert model.head is not None
    with torch.inference_mode():
        ids = [int(model.head.cls_logits(model(path).cls).argmax()) for path in sorted(photos.iterdir())]
    assert atlas.sizes.tolist() == np.bincount(ids, minlength=96).tolist()
    names = [path.name for path in sorted(photos.iterdir())]
    for pattern in atlas.top(96):
        members = atlas.members(pattern)
        assert len(members) == min(4, atlas.sizes[pattern])
        assert {ids[names.index(member.path)] for member in members} == {pattern}
        assert {(member.row, member.column) for member in members} == {(-1, -1)}


def test_probability_takes_the_mean_logit_of_the_images_as_centre(model: Model, photos: Path, atlas: PatternAtlas) -> None:
    assert model.head is not None
    with torch.inference_mode():
        logits = torch.cat([model.head.patch_logits(model(path).patches).flatten(0, 2) for path in sorted(photos.iterdir())])
    centre = logits.mean(dim=0)
    likely = ((logits - centre) / 0.05).softmax(dim=-1).max(dim=-1)
    found = find_patterns(model, photos, dtype="float32", confidence="probability", temperature=0.05)
    assert found.centre == pytest.approx(centre.numpy(), abs=1e-5)
    assert found.sizes.tolist() == np.bincount(likely.indices, minlength=96).tolist()
    assert found.sizes.tolist() != atlas.sizes.tolist()
    first = found.top(1)[0]
    expected = float(likely.values[likely.indices == first].max())
    assert found.members(first)[0].confidence == pytest.approx(expected, rel=1e-3)
    assert (found.facts.confidence, found.facts.temperature) == ("probability", 0.05)


def test_of_many_images_a_spread_share_makes_the_centre(model: Model, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns_module, "CENTRE_IMAGES", 3)
    found = find_patterns(model, photos, dtype="float32", confidence="probability")
    assert model.head is not None
    chosen = [sorted(photos.iterdir())[index] for index in (0, 8, 15)]
    with torch.inference_mode():
        logits = torch.cat([model.head.patch_logits(model(path).patches).flatten(0, 2) for path in chosen])
    assert found.centre == pytest.approx(logits.mean(dim=0).numpy(), abs=1e-5)


def test_broken_images_are_counted_and_named(model: Model, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes((photos / "coffee.jpg").read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"")
    atlas = find_patterns(model, tmp_path, dtype="float32")
    assert (atlas.facts.images, atlas.facts.failed, list(atlas.facts.failures)) == (1, 1, [("bad.jpg", "the file is empty")])
    (tmp_path / "good.jpg").unlink()
    with pytest.raises(SourceError, match=r"No image in .* can be read; the first, bad.jpg: the file is empty"):
        find_patterns(model, tmp_path, dtype="float32")


def test_paths_come_from_a_stream_too(model: Model, photos: Path) -> None:
    from io import BytesIO

    stream = BytesIO(b"\n".join(bytes(path) for path in sorted(photos.iterdir())[:2]))
    assert find_patterns(model, "-", dtype="float32", stdin=stream).facts.images == 2


def test_the_callers_model_stays_as_it_was(model: Model, photos: Path) -> None:
    weight = next(model.parameters())
    find_patterns(model, photos, limit=1, dtype="bfloat16")
    assert next(model.parameters()) is weight
    assert weight.dtype == torch.float32


def without_head(model: Model) -> Model:
    return Model(model.backbone, None, None, model.transform, model.card)


def test_a_model_without_a_head_is_told_where_heads_are(model: Model, photos: Path, atlas: PatternAtlas) -> None:
    for ask in (lambda: find_patterns(without_head(model), photos), lambda: compose(without_head(model), photos / "coffee.jpg", atlas)):
        with pytest.raises(WeightsError, match=r"has no projection head here.*load it with head=True; a full checkpoint has the head"):
            ask()


def test_logits_that_are_not_finite_are_refused(model: Model, photos: Path) -> None:
    assert model.head is not None
    head = Head(128, 96, hidden_dim=128, bottleneck_dim=32)
    nn.init.constant_(head.mlp[0].bias, torch.nan)
    broken = Model(model.backbone, head, None, model.transform, model.card)
    with pytest.raises(WeightsError, match="not finite in float32: its weights or its mean and std are wrong"):
        find_patterns(broken, photos, dtype="float32", limit=1)


def test_a_composition_has_the_patches_with_most_attention_one_a_pattern(model: Model, photos: Path, atlas: PatternAtlas) -> None:
    path = photos / "two_dogs.jpg"
    found = compose(model, path, atlas)
    attention, patterns = model.attention(path)[0].mean(dim=0), model.pattern_ids(path)
    expected: dict[int, tuple[int, int]] = {}
    for patch in attention.flatten().argsort(descending=True).tolist():
        expected.setdefault(int(patterns.ids.flatten()[patch]), divmod(patch, 14))
    assert [(part.pattern, (part.row, part.column)) for part in found.parts] == list(expected.items())[:4]
    assert (found.of, found.fit.width, found.fit.rows) == (ATTENTION, decode(path).width, 14)
    for part in found.parts:
        assert part.attention == pytest.approx(float(attention[part.row, part.column]), abs=1e-6)
        assert part.confidence == pytest.approx(float(patterns.confidences[0, part.row, part.column]), abs=1e-5)
    assert len(compose(model, path, atlas, 1000).parts) == len(expected)


def test_a_composition_goes_by_the_rules_of_its_atlas(model: Model, photos: Path) -> None:
    """Size, centre and temperature."""
    atlas = find_patterns(model, photos, dtype="float32", limit=4, size=64, confidence="probability", temperature=0.1)
    found = compose(model, photos / "coffee.jpg", atlas)
    assert found.fit.rows == 4
    assert model.head is not None
    transform = dataclasses.replace(model.transform, size=64)
    with torch.inference_mode():
        logits = model.head.patch_logits(model(photos / "coffee.jpg", transform=transform).patches[0])
    likely = ((logits - torch.from_numpy(np.array(atlas.centre))) / 0.1).softmax(dim=-1).max(dim=-1)
    for part in found.parts:
        assert part.pattern == likely.indices[part.row, part.column]
        assert part.confidence == pytest.approx(float(likely.values[part.row, part.column]), rel=1e-3)


def test_a_swin_is_composed_by_the_cosine_with_its_vector(golden: Path, photos: Path) -> None:
    swin = load(golden / "swin_micro_w7_checkpoint.pth")
    atlas = find_patterns(swin, photos, dtype="float32", limit=4)
    found = compose(swin, photos / "coffee.jpg", atlas, 2)
    tokens = swin(photos / "coffee.jpg")
    cosine = nn.functional.cosine_similarity(tokens.patches[0], tokens.cls[0], dim=-1)
    assert (found.of, found.parts[0].attention) == (COSINE, pytest.approx(float(cosine.max()), abs=1e-5))


def test_an_atlas_of_another_head_is_refused(model: Model, golden: Path, photos: Path, atlas: PatternAtlas) -> None:
    student = load(golden / "vit_micro_checkpoint.pth", network="student")
    check_head(atlas, load(golden / "vit_micro_checkpoint.pth", dtype="bfloat16"))
    with pytest.raises(UsageError, match=r"found with the head of .*teacher.*find an atlas with .*student"):
        compose(student, photos / "coffee.jpg", atlas)
    whole = find_patterns(model, photos, dtype="float32", of="cls", limit=1)
    with pytest.raises(UsageError, match="this atlas holds whole images; find one with --of patches"):
        compose(model, photos / "coffee.jpg", whole)
