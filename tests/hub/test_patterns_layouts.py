"""Members as pictures: the right pixels, from the right place, and a reason where there are none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.patterns.atlas import PatternAtlas, open_atlas
from ibot_hub.patterns.finding import find_patterns
from ibot_hub.patterns.layouts import carry_pictures, crop, is_dark, layouts

Find = Callable[..., PatternAtlas]


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of 28 x 14 pixels a patch of 16: a flat colour that tells the row, column and number of the image."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        rows, columns = np.indices((14, 14))
        colours = np.stack([60 + 12 * rows, 60 + 12 * columns, np.full((14, 14), 8 * number)], axis=-1).astype(np.uint8)
        pixels = colours.repeat(14, axis=0).repeat(28, axis=1)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def find(model: Model, folder: Path, **options: object) -> PatternAtlas:
    return find_patterns(model, folder, resize="squash", device="cpu", **options)


def test_a_crop_has_what_the_box_holds_and_black_around_the_image() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    inside = crop(image, (10, 0, 30, 20), (10, 10))
    assert (inside.getpixel((2, 5)), inside.getpixel((7, 5))) == ((255, 0, 0), (0, 0, 255))
    beyond = np.asarray(crop(image, (30, -10, 50, 10), (20, 40)))
    assert (beyond[:20] == 0).all()
    assert (beyond[:, 10:] == 0).all()
    assert (beyond[20:, :10] == (0, 0, 255)).all()


def test_dark_is_measured_as_the_official_script_does() -> None:
    """The mean of the value of hue, saturation and value, which is the brightest channel."""
    assert is_dark(Image.new("RGB", (4, 4), (40, 0, 0)))
    assert not is_dark(Image.new("RGB", (4, 4), (0, 41, 0)))


def test_pictures_are_the_patches_of_the_members_among_their_neighbours(model: Model, folder: Path) -> None:
    atlas = find(model, folder)
    (layout,) = layouts(atlas, atlas.top(1), side=50)
    assert (layout.pattern, layout.size, layout.of, layout.problems) == (atlas.top(1)[0], atlas.sizes.max(), "patches", [])
    assert len(layout.members) == len(layout.pictures) > 1
    for member, picture in zip(layout.members, layout.pictures, strict=True):
        assert picture.size == (50, 50)
        for down in range(-2, 3):
            for right in range(-2, 3):
                row, column = member.row + down, member.column + right
                within = 0 <= row < 14 and 0 <= column < 14
                expected = (60 + 12 * row, 60 + 12 * column, 8 * int(member.path[0])) if within else (0, 0, 0)
                assert picture.getpixel((25 + 10 * right, 25 + 10 * down)) == expected


def test_dark_crops_give_way_to_the_next_member(model: Model, folder: Path) -> None:
    atlas = find(model, folder)
    pattern = next(pattern for pattern in atlas.top(96) if len(atlas.members(pattern)) == 3)
    first, second, third = (member.path for member in atlas.members(pattern))
    assert [member.path for member in layouts(atlas, [pattern], 2)[0].members] == [first, second]
    Image.new("RGB", (392, 196), (30, 30, 30)).save(folder / first)
    (layout,) = layouts(atlas, [pattern], 2)
    assert [member.path for member in layout.members] == [second, third]
    assert layout.problems == []


def test_an_image_that_is_missing_or_changed_is_named_and_passed_over(model: Model, folder: Path) -> None:
    atlas = find(model, folder)
    pattern = next(pattern for pattern in atlas.top(96) if len(atlas.members(pattern)) == 3)
    first, second, third = (member.path for member in atlas.members(pattern))
    (folder / first).unlink()
    Image.new("RGB", (391, 196), "white").save(folder / second)
    (layout,) = layouts(atlas, [pattern])
    assert [member.path for member in layout.members] == [third]
    assert layout.problems == [f"{first}: no such file", f"{second}: it is 391 x 196 pixels now, and was 392 x 196"]


def test_an_atlas_with_pictures_needs_no_images(model: Model, folder: Path, tmp_path: Path) -> None:
    atlas = find(model, folder)
    first, second = atlas.top(2)
    expected, other = layouts(atlas, [first, second], side=40)
    carry_pictures(atlas, 1, side=40).save(tmp_path / "atlas.parquet")
    shutil.rmtree(folder)
    opened = open_atlas(tmp_path / "atlas.parquet")
    shown, lost = layouts(opened, [first, second], side=40)
    assert len(shown.pictures) == len(expected.pictures)
    for ours, theirs in zip(shown.pictures, expected.pictures, strict=True):
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).mean() < 8  # WebP
    assert layouts(opened, [first], side=20)[0].pictures[0].size == (20, 20)
    assert (lost.pictures, len(lost.problems)) == ([], len(other.members))


def test_the_pictures_that_are_carried_are_those_that_are_shown(model: Model, folder: Path) -> None:
    """No dark one, and none to spare; other members stay in the atlas, without a picture and without a place."""
    Image.new("RGB", (392, 196), (30, 30, 30)).save(folder / "0.png")
    plain = find(model, folder, members=1, per_image=2)
    atlas = find(model, folder, members=1, per_image=2, pictures=96, picture_size=40)
    for pattern, layout in zip(plain.top(96), layouts(plain, plain.top(96)), strict=True):
        members = atlas.members(pattern)
        carried = [(member.path, member.row, member.column) for member in members if member.picture is not None]
        assert carried == [(member.path, member.row, member.column) for member in layout.members]
        assert len(members) == len(plain.members(pattern))
        assert all(member.entry is None for member in members)
    assert any(len(plain.members(pattern)) == 2 for pattern in plain.top(96))


def test_of_cls_the_pictures_are_what_the_network_saw(model: Model, photos: Path) -> None:
    atlas = find_patterns(model, photos, of="cls", limit=3)
    (layout,) = layouts(atlas, atlas.top(1), side=56)
    member = layout.members[0]
    assert (member.row, member.column, layout.of) == (-1, -1, "cls")
    seen = model.transform.pixels(decode(photos / member.path)).permute(1, 2, 0).numpy()
    expected = Image.fromarray(seen).resize((56, 56), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(layout.pictures[0], int) - np.asarray(expected, int)).mean() < 3
    keep = find_patterns(model, photos / "two_dogs.jpg", of="cls", size=64, resize="keep")
    assert layouts(keep, keep.top(1), side=60)[0].pictures[0].size == (40, 60)


def test_dark_images_are_shown_whole(model: Model, tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), (5, 5, 5)).save(tmp_path / "night.png")
    atlas = find_patterns(model, tmp_path, of="cls")
    assert len(layouts(atlas, atlas.top(1))[0].pictures) == 1
