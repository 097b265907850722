"""One place in a batch: its random numbers, and the image that it gets in the end."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.errors import ImageError, SourceError
from ibot_training.data import Images, open_images
from ibot_training.loading import decoders, enough_pixels, generator, load_crops, load_image
from ibot_training.recipe import Augmentation, Crops, Recipe, Run
from ibot_training.views import draw_views

RECIPE = Recipe(name="test", crops=Crops(global_size=32, local_count=3, local_size=16))


class Pictures:
    """Images in memory; None cannot be read."""

    labels = None
    classes = ()

    def __init__(self, *images: Image.Image | None) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, number: int) -> str:
        return f"picture {number}"

    def load(self, number: int) -> Image.Image:
        image = self._images[number]
        if image is None:
            raise ImageError("torn")
        return image


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_every_place_of_every_step_has_numbers_of_its_own() -> None:
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**62, 10**7, 10**5)]
    draws = [tuple(generator(*place).random(1000)) for place in places]
    assert len({draw[:4] for draw in draws}) == len(places)
    assert len(set().union(*draws)) == 1000 * len(places)
    assert tuple(generator(*places[-1]).random(1000)) == draws[-1]


def test_crops_are_those_of_the_views_that_are_drawn(photos: Path, tmp_path: Path) -> None:
    images = open_images(str(photos), tmp_path)
    loaded = load_crops(images, RECIPE, 3, generator(0, 1, 2))
    assert [crop.shape for crop in loaded.pixels] == [(3, 32, 32)] * 2 + [(3, 16, 16)] * 3
    assert (loaded.number, loaded.broken, loaded.pixels[0].dtype) == (3, (), np.uint8)
    again = load_crops(images, RECIPE, 3, generator(0, 1, 2))
    other = load_crops(images, RECIPE, 3, generator(0, 1, 3))
    assert all((crop == same).all() for crop, same in zip(loaded.pixels, again.pixels, strict=True))
    assert all((crop != differs).any() for crop, differs in zip(loaded.pixels, other.pixels, strict=True))
    rng = generator(0, 1, 2)
    draw_views(RECIPE.crops, RECIPE.augmentation, images.load(3).size[::-1], rng)
    assert loaded.rng.random() == rng.random()  # masks come next, in every pipeline from the same numbers


def test_a_whole_image_is_pillows_memory() -> None:
    image = noise(200, 150)
    loaded = load_image(Pictures(image), RECIPE, 0, generator(0, 0, 0))
    assert loaded.pixels[0].shape == (150, 200, 4)
    np.testing.assert_array_equal(loaded.pixels[0][..., :3], np.asarray(image))
    assert loaded.rng.random() == generator(0, 0, 0).random()  # the views are drawn from it later


def test_an_image_in_several_pieces_of_memory() -> None:
    image = noise(50, 90_000)
    loaded = load_image(Pictures(image), RECIPE, 0, generator(0, 0, 0))
    np.testing.assert_array_equal(loaded.pixels[0], np.asarray(image))


@pytest.mark.parametrize(("crops", "side"), [(Crops(), 518), (Crops(local_scale=(0.01, 0.25)), 1109), (Crops(local_count=0), 518)])
def test_no_crop_is_enlarged_from_enough_pixels(crops: Crops, side: int) -> None:
    assert enough_pixels(crops) == side
    boxes = draw_views(crops, Augmentation(), (side, side), generator(0, 0, 0)).box
    assert boxes[:2, 2:].min() >= crops.global_size
    assert not crops.local_count or boxes[2:, 2:].min() >= crops.local_size


@pytest.mark.parametrize(("size", "reduced"), [((517, 600), (517, 600)), ((1555, 1040), (778, 520)), ((5180, 3108), (864, 518))])
def test_a_large_image_is_reduced_as_far_as_enough_is_left(size: tuple[int, int], reduced: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    pixels = load_image(Pictures(image), Recipe(name="test"), 0, generator(0, 0, 0)).pixels[0]
    assert pixels.shape[1::-1] == reduced
    assert (pixels[..., :3] == (10, 20, 30)).all()


@pytest.mark.parametrize("load", [load_crops, load_image])
def test_a_broken_image_gives_its_place_to_another(load: object) -> None:
    assert callable(load)
    images: Images = Pictures(None, noise(40, 30), None, noise(40, 30), None)
    taken, seen = set(), set()
    for position in range(40):
        loaded = load(images, RECIPE, 0, generator(0, 0, position))
        again = load(images, RECIPE, 0, generator(0, 0, position))
        assert (loaded.number, loaded.broken) == (again.number, again.broken)
        assert loaded.broken[0] == ("picture 0", "torn")
        taken.add(loaded.number)
        seen.update(loaded.broken)
    assert taken == {1, 3}
    assert seen == {(f"picture {number}", "torn") for number in (0, 2, 4)}


def test_nothing_can_be_read() -> None:
    with pytest.raises(SourceError, match="20 images that were drawn one after the other cannot be read, the last of them picture 0: torn"):
        load_crops(Pictures(None), RECIPE, 0, generator(0, 0, 0))


def test_the_cores_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert decoders(RECIPE) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert decoders(RECIPE) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert decoders(RECIPE) == 1
    assert decoders(Recipe(name="test", run=Run(workers=5))) == 5
