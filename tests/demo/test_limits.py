"""Files beyond the bounds are refused by their headers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ibot_demo import limits
from ibot_demo.limits import foreign_atlas, picture
from ibot_hub.errors import ImageError, StoreError, UsageError
from ibot_hub.model import Model
from ibot_hub.patterns.atlas import PatternAtlas
from ibot_hub.patterns.finding import find_patterns


def test_pictures_within_bounds_are_decoded_upright(photos: Path, tmp_path: Path) -> None:
    with Image.open(photos / "coffee.jpg") as photo:
        assert picture(str(photos / "coffee.jpg"), "coffee.jpg").size == photo.size
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert picture(str(tmp_path / "turned.jpg"), "turned.jpg").size == (20, 40)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # `ibot` ignores what Pillow warns of
def test_what_is_too_large_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "decode", None)
    for size, words in (((10_000, 10_000), "mine.png has 10000 x 10000 pixels; 40 million"), ((20_000, 20_000), "mine.png has too many")):
        Image.new("1", size).save(tmp_path / "huge.png")
        with pytest.raises(ImageError, match=words):
            picture(str(tmp_path / "huge.png"), "mine.png")
    with (tmp_path / "long.jpg").open("wb") as stream:
        stream.truncate(limits.MAX_BYTES + 1)
    with pytest.raises(ImageError, match=r"long\.jpg is larger than 20 MB"):
        picture(str(tmp_path / "long.jpg"), "long.jpg")


def test_an_upload_that_was_swept(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^mine\.jpg is gone \(uploads are kept for an hour\); drop it again\.$"):
        picture(str(tmp_path / "swept.jpg"), "mine.jpg")
    with pytest.raises(StoreError, match=r"^mine\.parquet is gone \(uploads are kept for an hour\); drop it again\.$"):
        foreign_atlas(str(tmp_path / "swept.parquet"), "mine.parquet")


def test_no_picture_and_no_picture_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture yet"):
        picture("", "")
    (tmp_path / "notes.jpg").write_text("buy milk")
    with pytest.raises(ImageError, match=r"^notes\.jpg: no image that can be read, whatever its name says"):
        picture(str(tmp_path / "notes.jpg"), "notes.jpg")


@pytest.fixture(scope="session")
def two_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for name in ("coffee.jpg", "two_dogs.jpg"):
        (folder / name).write_bytes((photos / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def whole_atlas(tiny: Model, two_photos: Path) -> PatternAtlas:
    return find_patterns(tiny, two_photos, pictures=3)


def test_an_atlas_of_somebody_opens_no_file_of_this_machine(tiny: Model, two_photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "atlas.parquet"
    atlas = find_patterns(tiny, two_photos, pictures=1)
    atlas.save(file)
    assert any(member.entry for pattern in range(len(atlas.sizes)) for member in atlas.members(pattern))
    foreign = foreign_atlas(str(file), "mine.parquet")
    assert (foreign.sizes == atlas.sizes).all()
    assert foreign.members(foreign.top(1)[0])[0].picture is not None
    assert not any(member.entry for pattern in range(len(foreign.sizes)) for member in foreign.members(pattern))


@pytest.mark.parametrize("wrong", [
    {"members": 0}, {"members": 101}, {"members": "all"}, {"model": 7}, {"preprocessing": {}}, {"preprocessing": "none"},
    {"preprocessing": {"size": 680}}, {"preprocessing": {"size": 1, "patch": 1 << 30}}, {"preprocessing": {"size": "64"}},
    {"preprocessing": {"resize": "twist"}}, {"preprocessing": {"std": [0, 0, 0]}}, {"preprocessing": {"mean": None}},
], ids=str)  # fmt: skip
def test_an_atlas_that_claims_what_it_must_not(whole_atlas: PatternAtlas, tmp_path: Path, wrong: dict[str, Any]) -> None:
    facts = wrong
    if wrong.get("preprocessing") and isinstance(wrong["preprocessing"], dict):
        facts = {"preprocessing": {**whole_atlas.facts.preprocessing, **wrong["preprocessing"]}}
    PatternAtlas(replace(whole_atlas.facts, **facts), whole_atlas.table).save(tmp_path / "atlas.parquet")
    with pytest.raises(StoreError, match=r"^mine\.parquet holds what `ibot patterns find` never writes"):
        foreign_atlas(str(tmp_path / "atlas.parquet"), "mine.parquet")


def test_an_atlas_without_its_sizes(whole_atlas: PatternAtlas, tmp_path: Path) -> None:
    table = whole_atlas.table
    empty = table.set_column(1, "size", pa.nulls(len(table), pa.int64()))
    PatternAtlas(whole_atlas.facts, empty).save(tmp_path / "atlas.parquet")
    with pytest.raises(StoreError, match="never writes"):
        foreign_atlas(str(tmp_path / "atlas.parquet"), "mine.parquet")


def test_an_atlas_with_pictures_cut_off(tiny: Model, two_photos: Path, tmp_path: Path) -> None:
    atlas = find_patterns(tiny, two_photos, pictures=1)
    pattern = atlas.top(1)[0]
    whole = [member["picture"] for member in atlas.table["members"][pattern].as_py()]
    atlas.with_pictures({pattern: [picture[: len(picture) // 2] for picture in whole]}).save(tmp_path / "atlas.parquet")
    with pytest.raises(StoreError, match="no pictures of patches"):
        foreign_atlas(str(tmp_path / "atlas.parquet"), "mine.parquet")


def test_an_atlas_that_is_none(tiny: Model, two_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "atlas.parquet"
    file.write_text("buy milk")
    with pytest.raises(StoreError, match=r"^mine\.parquet is not an atlas"):
        foreign_atlas(str(file), "mine.parquet")
    pq.write_table(pa.table({"pattern": [1]}), file)
    with pytest.raises(StoreError, match=r"^mine\.parquet is not an atlas"):
        foreign_atlas(str(file), "mine.parquet")
    find_patterns(tiny, two_photos).save(file)
    with pytest.raises(StoreError, match="carries no pictures"):
        foreign_atlas(str(file), "mine.parquet")
    find_patterns(tiny, two_photos, pictures=1).save(file)
    monkeypatch.setattr(limits, "MAX_CELL", 79)
    with pytest.raises(StoreError, match="no pictures of patches"):
        foreign_atlas(str(file), "mine.parquet")
    monkeypatch.setattr(limits, "MAX_TABLE", 10)
    with pytest.raises(StoreError, match="too large"):
        foreign_atlas(str(file), "mine.parquet")
