"""An atlas is a file that opens again as it was, and says what is wrong with one that does not."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibot_hub.errors import StoreError, UsageError
from ibot_hub.images import ImageTransform
from ibot_hub.loading import load
from ibot_hub.patterns import atlas as atlas_module
from ibot_hub.patterns.atlas import ROW_GROUP, SCHEMA, PatternAtlas, check_out, embedded_atlas, open_atlas
from ibot_hub.patterns.finding import check_head, find_patterns


@pytest.fixture(scope="module")
def atlas(golden: Path, photos: Path) -> PatternAtlas:
    """Of 96 untrained patterns."""
    return find_patterns(load(golden / "vit_micro_checkpoint.pth"), photos, limit=5, members=3)


@pytest.fixture
def file(atlas: PatternAtlas, tmp_path: Path) -> Path:
    atlas.save(tmp_path / "atlas.parquet")
    return tmp_path / "atlas.parquet"


def test_opens_as_it_was_saved(atlas: PatternAtlas, file: Path) -> None:
    opened = open_atlas(file)
    assert asdict(opened.facts) == json.loads(json.dumps(asdict(atlas.facts)))
    assert opened.sizes.tolist() == atlas.sizes.tolist()
    assert opened.table.to_pylist() == atlas.table.to_pylist()
    assert opened.table.schema.equals(SCHEMA)
    assert opened.centre is None
    assert opened.transform == atlas.transform == ImageTransform()
    assert [path.name for path in file.parent.iterdir()] == ["atlas.parquet"]


def test_more_patterns_than_are_read_at_once(atlas: PatternAtlas, tmp_path: Path) -> None:
    """Whose paths differ, so that each row group has a dictionary of its own."""
    count = 30
    rows = [row | {"members": [member | {"path": f"{part}/{member['path']}"} for member in row["members"]]}
            for part in range(count) for row in atlas.table.to_pylist()]  # fmt: skip
    many = PatternAtlas(atlas.facts, pa.Table.from_pylist(rows, SCHEMA))
    assert len(rows) > 2 * ROW_GROUP
    many.save(tmp_path / "many.parquet")
    opened = open_atlas(tmp_path / "many.parquet")
    assert opened.table.to_pylist() == rows
    pattern = opened.top(1)[0] + 29 * 96
    changed = opened.with_pictures({pattern: [b"a"] * len(opened.members(pattern))})
    changed.save(tmp_path / "many.parquet")
    assert open_atlas(tmp_path / "many.parquet").table["members"][pattern].as_py()[0]["picture"] == b"a"
    assert changed.members(3) == opened.members(3)


def test_members_say_where_and_how_sure(atlas: PatternAtlas, photos: Path) -> None:
    pattern = atlas.top(1)[0]
    members = atlas.members(pattern)
    assert 1 < len(members) <= 6
    confidences = [member.confidence for member in members]
    assert confidences == sorted(confidences, reverse=True)
    assert len({member.path for member in members}) == len(members)
    for member in members:
        assert member.entry is not None
        assert member.entry.location == str(photos / member.path)
        assert (0 <= member.row < 14, 0 <= member.column < 14, member.picture) == (True, True, None)
    with pytest.raises(UsageError, match="Pattern 96 does not exist; this atlas has 96"):
        atlas.members(96)
    with pytest.raises(UsageError, match="Pattern -1"):
        atlas.members(-1)


def test_is_told_in_one_line(atlas: PatternAtlas) -> None:
    assert repr(atlas).endswith(f"vit_micro_checkpoint.pth, 96 patterns of patches, {len(atlas.top(96))} of them used, 5 images)")


def test_top_is_by_size_then_number(atlas: PatternAtlas) -> None:
    sizes = atlas.sizes
    assert sizes.sum() == 5 * 196
    top = atlas.top(1000)
    assert top == sorted(np.flatnonzero(sizes).tolist(), key=lambda pattern: (-sizes[pattern], pattern))
    assert len(top) < 96
    assert atlas.top(3) == top[:3]


def test_others_read_the_file(file: Path) -> None:
    import duckdb

    rows = duckdb.sql(f"select pattern, size, unnest(members, recursive := true) from '{file}' where size > 0").fetchall()
    assert {row[0] for row in rows} == set(open_atlas(file).top(1000))


def test_a_pattern_with_pictures_keeps_no_place(atlas: PatternAtlas, tmp_path: Path) -> None:
    first, second = atlas.top(2)
    count = len(atlas.members(first))
    changed = atlas.with_pictures({first: [b"a"] + [None] * (count - 1)})
    rows = changed.table["members"].to_pylist()
    assert [row["picture"] for row in rows[first]] == [b"a"] + [None] * (count - 1)
    assert {row["location"] for row in rows[first]} == {None}
    assert rows[second] == atlas.table["members"].to_pylist()[second]
    every = {pattern: [b"a"] * len(atlas.members(pattern)) for pattern in atlas.top(96)}
    atlas.with_pictures(every).save(tmp_path / "all.parquet")
    pq.write_table(pq.read_table(tmp_path / "all.parquet"), tmp_path / "plain.parquet", compression="none")
    assert b"/astronaut.jpg" not in (tmp_path / "plain.parquet").read_bytes()


def test_what_is_no_atlas_is_named(file: Path, tmp_path: Path, atlas: PatternAtlas) -> None:
    whole = file.read_bytes()
    table = pa.table({"a": [1]})
    pq.write_table(table, tmp_path / "other.parquet")
    pq.write_table(table.replace_schema_metadata({"ibot_hub": '{"shapes": {}}'}), tmp_path / "shard.parquet")
    later = atlas.table.replace_schema_metadata({"ibot_hub": json.dumps({"kind": "pattern atlas", "format": 2})})
    pq.write_table(later, tmp_path / "later.parquet")
    (tmp_path / "text.parquet").write_text("not Parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    for name, said in (
        ("missing.parquet", "There is no "),
        ("", "is a folder, not an atlas"),
        ("other.parquet", "is not an atlas of patterns; `ibot patterns find"),
        ("shard.parquet", "is not an atlas of patterns; `ibot patterns find"),
        ("later.parquet", "is an atlas of format 2, and this ibot-hub reads format 1; install a later one"),
        ("text.parquet", "damaged or cut off"),
        ("empty.parquet", "damaged or cut off"),
    ):
        with pytest.raises(StoreError, match=said):
            open_atlas(tmp_path / name)
    for cut in (4, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:cut])
        with pytest.raises(StoreError, match="damaged or cut off"):
            open_atlas(tmp_path / "cut.parquet")
    columns = pq.read_metadata(file).row_group(0)
    for index in range(columns.num_columns):
        chunk = columns.column(index)
        flipped = bytearray(whole)
        flipped[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 255
        (tmp_path / "flipped.parquet").write_bytes(flipped)
        with pytest.raises(StoreError, match="damaged or cut off"):
            open_atlas(tmp_path / "flipped.parquet")


def test_a_failed_save_leaves_what_was_there(atlas: PatternAtlas, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        file.with_name(".atlas.parquet.partial").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atlas_module.pq, "ParquetWriter", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device"):
        atlas.save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["atlas.parquet"]


def test_where_an_atlas_may_be_written(file: Path, tmp_path: Path) -> None:
    check_out(tmp_path / "new.parquet", overwrite=False)
    check_out(file, overwrite=True)
    with pytest.raises(StoreError, match="is there already; choose another --out, or --overwrite to replace it"):
        check_out(file, overwrite=False)
    with pytest.raises(StoreError, match="is a folder; choose another --out"):
        check_out(tmp_path, overwrite=True)
    with pytest.raises(StoreError, match="nowhere is no folder that can be written"):
        check_out(tmp_path / "nowhere" / "atlas.parquet", overwrite=False)


def test_the_embedded_atlas_is_of_the_embedded_model() -> None:
    """A model that is trained anew needs its atlas made anew."""
    embedded = embedded_atlas()
    check_head(embedded, load("tiny", head=True))
    rows = embedded.table["members"].combine_chunks().values
    assert rows.field("location").null_count == len(rows)  # it travels without the images
    assert all(any(member.picture for member in embedded.members(pattern)) for pattern in embedded.top(20))


def test_the_embedded_atlas_is_opened_from_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_module, "EMBEDDED", file)
    assert len(embedded_atlas().sizes) == 96
