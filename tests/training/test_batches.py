"""Batches are the same however they are made: in how many threads, processes and parts, and from where on."""

import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD
from ibot_hub.errors import SourceError, UsageError
from ibot_training.batches import AHEAD, Batch, batches, shares_of
from ibot_training.data import Images, epoch_order, open_images
from ibot_training.distributed import World
from ibot_training.loading import generator, load_crops
from ibot_training.masking import masks_of
from ibot_training.recipe import Augmentation, Crops, Masks, Network, Optimiser, Recipe, Run
from ibot_training.resident import Resident, keep_on_device

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
RECIPE = Recipe(
    name="test",
    network=Network(image_size=32, patch_size=8, embed_dim=64, depths=(3,), heads=(1,)),
    crops=Crops(global_size=32, local_count=3, local_size=16),
    masks=Masks(ratios=(0.3,), spreads=(0.2,), start_epoch=1),
    optimiser=Optimiser(batch_size=4),
)
PIPELINES = {
    "reference": RECIPE,
    "batched": replace(RECIPE, augmentation=Augmentation(pipeline="batched")),
    "resident": replace(RECIPE, run=Run(resident=40)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Eleven photographs of different sizes in three classes."""
    folder = tmp_path_factory.mktemp("images")
    for number, file in enumerate(sorted(photos.glob("*.jpg"))[:11]):
        copy = folder / "abc"[number % 3] / file.name
        copy.parent.mkdir(exist_ok=True)
        Image.open(file).resize((60 + number, 70 - number)).save(copy)
    return folder


@pytest.fixture(scope="module")
def images(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    return open_images(str(folder), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module", params=list(PIPELINES))
def case(request: pytest.FixtureRequest, images: Images) -> tuple[Images | Resident, Recipe]:
    recipe = PIPELINES[request.param]
    return keep_on_device(images, 40, CPU, 2, none_skipped) if recipe.run.resident else images, recipe


def none_skipped(name: str, reason: str) -> None:
    pytest.fail(f"{name} was skipped: {reason}")


def made(images: Images | Resident, recipe: Recipe, start: int, stop: int, world: World = ALONE, **run: Any) -> list[Batch]:
    changed = replace(recipe, run=replace(recipe.run, **run))
    return list(batches(images, changed, start=start, stop=stop, world=world, skipped=none_skipped))


def tensors(batch: Batch) -> dict[str, Tensor | None]:
    return {field.name: getattr(batch, field.name) for field in fields(batch) if field.name not in ("step", "waited")}


def assert_same(first: Batch, second: Batch, apart: float = 0.0) -> None:
    """Equal, but that the mean difference of crops may be `apart`."""
    assert first.step == second.step
    for (name, one), other in zip(tensors(first).items(), tensors(second).values(), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            if apart and name.endswith("crops"):
                assert (one - other).abs().mean() < apart
            else:
                assert torch.equal(one, other), name


def joined(parts: list[Batch]) -> Batch:
    """The batch of which these are the parts, in order."""

    def one(name: str, views: int) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat([value.unflatten(0, (views, -1)) for value in values], 1).flatten(0, 1)

    counts = {"global_crops": 2, "local_crops": 3, "global_masks": 2, "local_masks": 3, "drops": 5, "labels": 1}
    return Batch(parts[0].step, **{name: one(name, views) for name, views in counts.items()})


def test_shapes_and_kinds(case: tuple[Images | Resident, Recipe]) -> None:
    (batch,) = made(*case, 2, 3)
    assert {name: (tuple(value.shape), value.dtype) for name, value in tensors(batch).items() if value is not None} == {
        "global_crops": ((8, 3, 32, 32), torch.float32),
        "local_crops": ((12, 3, 16, 16), torch.float32),
        "global_masks": ((8, 4, 4), torch.bool),
        "drops": ((20, 6), torch.float32),
        "labels": ((4,), torch.int64),
    }
    assert batch.step == 2
    assert 0 <= batch.drops.min() < 0.1 < 0.9 < batch.drops.max() < 1
    assert batch.global_crops.is_contiguous()
    assert batch.waited > 0


def test_threads_change_nothing(case: tuple[Images | Resident, Recipe]) -> None:
    for one, other in zip(made(*case, 0, 4, workers=1), made(*case, 0, 4, workers=3), strict=True):
        assert_same(one, other)


def test_a_run_that_goes_on_changes_nothing(case: tuple[Images | Resident, Recipe]) -> None:
    whole = made(*case, 0, 6)
    assert [batch.step for batch in whole] == list(range(6))
    for start in (1, 3):  # in the midst of an epoch of two steps
        for one, other in zip(whole[start:], made(*case, start, 6), strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_parts_change_nothing(case: tuple[Images | Resident, Recipe], processes: int, parts: int) -> None:
    images, recipe = case
    apart = 0 if recipe is PIPELINES["reference"] else 1e-4  # a product of matrices may round in another way where there are fewer
    recipe = replace(recipe, masks=replace(recipe.masks, crops="all", start_epoch=0))
    own = [made(images, recipe, 1, 3, World(rank, processes, CPU), accumulate=parts) for rank in range(processes)]
    for index, whole in enumerate(made(images, recipe, 1, 3)):
        shared = [own[rank][index * parts + part] for part in range(parts) for rank in range(processes)]
        assert {len(batch.global_crops) for batch in shared} == {8 // processes // parts}
        assert_same(whole, joined(shared), apart)


def test_pipelines_draw_the_same(images: Images) -> None:
    """Crops of the batched pipeline are those of the reference but for rounding; masks and drops are the same."""
    reference, batched = (made(images, PIPELINES[name], 2, 3)[0] for name in ("reference", "batched"))
    for name in ("global_crops", "local_crops"):
        one, other = getattr(reference, name), getattr(batched, name)
        assert (one - other).abs().mean() < 0.02 < 0.5 < one.std()
    for name in ("global_masks", "drops", "labels"):
        assert torch.equal(getattr(reference, name), getattr(batched, name))


def test_a_batch_holds_what_its_places_draw(images: Images) -> None:
    assert images.labels is not None
    (batch,) = made(images, RECIPE, 3, 4)  # the second step of epoch 1
    numbers = epoch_order(0, 1, 11)[4:8].tolist()
    assert batch.labels is not None
    assert batch.labels.tolist() == images.labels[numbers].tolist()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for place, number in enumerate(numbers):
        loaded = load_crops(images, RECIPE, number, generator(0, 3, place))
        crops = [(torch.tensor(crop) / 255 - mean) / std for crop in loaded.pixels]
        torch.testing.assert_close(batch.global_crops[place::4], torch.stack(crops[:2]), rtol=0, atol=1e-5)
        assert batch.local_crops is not None
        torch.testing.assert_close(batch.local_crops[place::4], torch.stack(crops[2:]), rtol=0, atol=1e-5)
        masks, _ = masks_of(RECIPE, 1, loaded.rng)
        assert torch.equal(batch.global_masks[place::4], torch.from_numpy(masks))
        assert torch.equal(batch.drops[place::4], torch.from_numpy(loaded.rng.random((5, 6), dtype=np.float32)))


def test_masks_begin_with_their_epoch(images: Images) -> None:
    before, after = made(images, RECIPE, 1, 3)  # two steps an epoch, masks from epoch 1 on
    assert not before.global_masks.any()
    assert after.global_masks.flatten(1).any(1).sum() > 4


def test_two_crops_without_classes(images: Images, photos: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, crops=replace(RECIPE.crops, local_count=0))
    for changed in (recipe, replace(recipe, augmentation=Augmentation(pipeline="batched"))):
        (batch,) = made(open_images(str(photos), tmp_path), changed, 0, 1)
        assert (batch.local_crops, batch.local_masks, batch.labels) == (None, None, None)
        assert batch.drops.shape == (8, 6)


def test_an_epoch_takes_whole_batches() -> None:
    """Eleven images in batches of four: three wait for another epoch."""
    shares = list(shares_of(11, RECIPE, 0, 6, ALONE))
    assert [share.epoch for share in shares] == [0, 0, 1, 1, 2, 2]
    for epoch in range(3):
        taken = np.concatenate([share.numbers for share in shares if share.epoch == epoch])
        np.testing.assert_array_equal(taken, epoch_order(0, epoch, 11)[:8])
    assert [list(share.positions) for share in shares_of(11, RECIPE, 0, 1, World(1, 2, CPU))] == [[2, 3]]


def test_what_cannot_be_shared_out(images: Images) -> None:
    with pytest.raises(UsageError, match=r"optimiser\.batch_size is 4; it must be a multiple of 3 processes x 1"):
        made(images, RECIPE, 0, 1, World(0, 3, CPU))
    with pytest.raises(SourceError, match="There are 11 images, too few for a batch of 12"):
        made(images, replace(RECIPE, optimiser=Optimiser(batch_size=12)), 0, 1)


def test_shards_give_the_crops_of_their_folder(folder: Path, images: Images, tmp_path: Path) -> None:
    shard = tmp_path / "images.tar"
    with tarfile.open(shard, "w") as tar:
        for file in sorted(folder.rglob("*.jpg")):
            tar.add(file, file.relative_to(folder))
    for one, other in zip(made(images, RECIPE, 0, 3), made(open_images(str(shard), tmp_path), RECIPE, 0, 3), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("pipeline", ["reference", "batched"])
def test_a_broken_image_is_replaced_and_named_once(folder: Path, tmp_path: Path, pipeline: str) -> None:
    copy = tmp_path / "images"
    for file in folder.rglob("*.jpg"):
        (copy / file.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / file.parent.name / file.name).write_bytes(file.read_bytes())
    victim = next(copy.rglob("coffee.jpg"))
    victim.write_bytes(victim.read_bytes()[:900])
    broken = open_images(str(copy), tmp_path)
    skipped: list[tuple[str, str]] = []
    found = [
        list(batches(broken, PIPELINES[pipeline], start=start, stop=8, world=ALONE, skipped=lambda *words: skipped.append(words)))
        for start in (0, 5)
    ]
    assert len(found[0]) == 8
    assert {len(batch.global_crops) for batch in found[0]} == {8}
    name = f"{victim.parent.name}/coffee.jpg"
    assert [words[0] for words in skipped] == [name, name]  # once for each of the two runs
    assert "broken JPEG" in skipped[0][1]
    for one, other in zip(found[0][5:], found[1], strict=True):
        assert_same(one, other)


class Counted:
    """Images that count how often they are loaded, and by which threads."""

    def __init__(self, images: Images) -> None:
        self._images, self.labels, self.classes = images, images.labels, images.classes
        self.loads: list[str] = []

    def __len__(self) -> int:
        return len(self._images)

    def name(self, number: int) -> str:
        return self._images.name(number)

    def load(self, number: int) -> Image.Image:
        self.loads.append(threading.current_thread().name)
        return self._images.load(number)


def stream_of(images: Images) -> Iterator[Batch]:
    return batches(images, RECIPE, start=0, stop=10**9, world=ALONE, skipped=none_skipped)


def test_on_a_cpu_threads_rest_while_a_batch_is_in_use(images: Images) -> None:
    counted = Counted(images)
    stream = stream_of(counted)
    for count in (4, 8):
        next(stream)
        time.sleep(0.1)
        assert len(counted.loads) == count
    assert all(name.startswith("decode") for name in counted.loads)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "assemble"))]


def test_a_bug_is_not_taken_for_a_broken_image(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(images)
    monkeypatch.setattr(counted, "load", lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(stream_of(counted))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_a_gpu_gets_the_batches_of_a_cpu(images: Images, pipeline: str) -> None:
    recipe, device = PIPELINES[pipeline], torch.device("cuda", 0)
    if pipeline == "reference":
        recipe = replace(recipe, augmentation=Augmentation(pipeline="reference"))
    kept = {d: keep_on_device(images, 40, d, 2, none_skipped) if recipe.run.resident else images for d in (CPU, device)}
    stream = batches(kept[device], recipe, start=0, stop=9, world=World(0, 1, device), skipped=none_skipped)
    for one, other in zip(made(kept[CPU], recipe, 0, 9), stream, strict=True):
        for name, value in tensors(one).items():
            found = getattr(other, name)
            assert (value is None) == (found is None)
            if value is not None:
                assert found.device.type == ("cuda" if name.endswith("crops") else "cpu")
                assert (found.cpu().float() - value.float()).abs().mean() < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_for_a_gpu_batches_are_made_ahead(images: Images) -> None:
    counted = Counted(images)
    stream = batches(counted, RECIPE, start=0, stop=10**9, world=World(0, 1, torch.device("cuda", 0)), skipped=none_skipped)
    list(islice(stream, 2))
    time.sleep(0.5)
    assert len(counted.loads) == 4 * (AHEAD + 1)
    stream.close()  # type: ignore[attr-defined]
