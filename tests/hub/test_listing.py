"""A listing on disk: its rows, its digest, and what happens when it cannot be written or read."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import ibot_hub.listing
from ibot_hub.errors import ImageError, SourceError, StoreError
from ibot_hub.listing import Entry, Listing, open_listing, write_listing

ROOT = Path(ibot_hub.listing.__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def listed_file(home: Path) -> Path:
    touch("in/a.jpg")
    return listed("in").file


def listed(source: object, **more: object) -> Listing:
    return write_listing(source, Path.cwd().parent / "listing.parquet", **more)


def entries(source: object, **more: object) -> list[Entry]:
    return listed(source, **more).entries(0, 1_000_000)


def names(source: object, **more: object) -> list[str]:
    return [entry.name for entry in entries(source, **more)]


def touch(*paths: str | bytes) -> None:
    for path in map(os.fsdecode, paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"<%s>" % os.fsencode(path))


def shard(path: str, *members: str | bytes, size: int = 700) -> None:
    """A tar whose members hold their own name, again and again."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in map(os.fsdecode, members):
            info = tarfile.TarInfo(member)
            info.size = size
            tar.addfile(info, io.BytesIO((os.fsencode(member) * size)[:size]))


def failure(source: object, **more: object) -> str:
    with pytest.raises(SourceError) as caught:
        listed(source, **more)
    assert not list(Path.cwd().parent.glob(".*.partial")), "nothing half written"
    return str(caught.value)


@pytest.mark.parametrize("rows", [3, 65_536])
def test_entries_come_from_any_row_groups(home: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(ibot_hub.listing, "ROW_GROUP", rows)
    touch(*(f"in/{number:02d}.jpg" for number in range(20)))
    listing = listed("in")
    everything = [f"{number:02d}.jpg" for number in range(20)]
    assert pq.read_metadata(listing.file).num_row_groups == -(-20 // rows)
    for start in range(21):
        for stop in range(start, 23):
            assert [entry.name for entry in listing.entries(start, stop)] == everything[start:stop]


def test_only_the_row_groups_that_are_needed_are_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ibot_hub.listing, "ROW_GROUP", 4)
    touch(*(f"in/{number:02d}.jpg" for number in range(20)))
    listing, read = listed("in"), []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda self, groups: read.append(groups) or original(self, groups))
    listing.entries(7, 9)
    assert read == [[1, 2]]


def test_a_listing_is_opened_as_it_was_written(home: Path) -> None:
    touch(b"caf\xe9/a.jpg", b"caf\xe9/b.jpg")
    written = listed(os.fsdecode(b"caf\xe9"))
    assert open_listing(written.file) == written
    assert (written.count, written.source) == (2, os.fsdecode(b"caf\xe9"))
    assert len(written.digest) == 64
    assert [path.name for path in written.file.parent.iterdir() if path.name != "home"] == ["listing.parquet"]


def test_the_digest_tells_sources_apart(home: Path) -> None:
    touch("in/a.jpg", "in/b.jpg", "same/a.jpg", "same/b.jpg", "other/a.jpg", "other/bb.jpg", "split/a.jpgb.jpg")
    assert listed("in").digest == listed("in").digest == listed(home / "same").digest
    assert len({listed(source).digest for source in ("in", "other", "split")}) == 3
    shard("x/s.tar", "a.jpg", "b.jpg")
    before = listed("x").digest
    shard("x/s.tar", "a.jpg", "b.jpg", size=701)
    assert listed("x").digest != before
    Path("list.txt").write_text("a.jpg\n")
    here = listed("list.txt").digest
    os.chdir("in")
    assert listed("../list.txt").digest != here  # the same words lead elsewhere
    os.chdir("..")
    assert listed("list.txt").digest == here


def test_what_is_no_listing(home: Path) -> None:
    Path("text").write_text("hello")
    pq.write_table(pq.read_table(listed_file(home)).select(["name"]).replace_schema_metadata(None), "foreign.parquet")
    for file in ("text", "foreign.parquet", "absent"):
        with pytest.raises(StoreError, match=f"{file} is not a listing"):
            open_listing(Path(file))


def test_a_listing_that_cannot_be_written(home: Path) -> None:
    touch("in/a.jpg")
    with pytest.raises(StoreError, match="Cannot write absent/listing"):
        write_listing("in", Path("absent/listing"))
    with pytest.raises(StoreError, match=r"Cannot write in/a\.jpg/listing"):
        write_listing("in", Path("in/a.jpg/listing"))


def test_an_earlier_listing_stays_if_the_next_fails(home: Path) -> None:
    file = listed_file(home)
    before = file.read_bytes()
    Path("in/a.jpg").unlink()
    with pytest.raises(SourceError):
        listed("in")
    assert file.read_bytes() == before
    assert len(list(file.parent.iterdir())) == 2


def test_a_shard_that_shrank_since(home: Path) -> None:
    shard("s.tar", "a.jpg", "b.jpg")
    _, last = entries("s.tar")
    with Path("s.tar").open("r+b") as stream:
        stream.truncate(last.offset + 10)
    with pytest.raises(ImageError, match="the shard ends before it does"):
        last.read()


def test_what_cannot_be_read_is_listed_and_says_why(home: Path) -> None:
    touch("in/a.jpg")
    Path("in/broken.jpg").symlink_to("nowhere.jpg")
    Path("in/self.jpg").symlink_to("self.jpg")
    os.mkfifo("in/pipe.jpg")
    with Path("in/huge.tif").open("wb") as stream:
        stream.truncate(ibot_hub.listing.MAX_BYTES + 1)
    reasons = {}
    for entry in entries("in"):
        try:
            entry.read()
        except ImageError as error:
            reasons[entry.name] = str(error)
    assert reasons == {
        "broken.jpg": "no such file",
        "self.jpg": "cannot be read: too many levels of symbolic links",
        "pipe.jpg": "not a regular file",
        "huge.tif": "it has 1073741825 bytes, more than 1073741824",
    }
