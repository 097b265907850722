"""Every kind of source gives its images in order, whatever their names; what is none is told in one sentence."""

import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import ibot_hub.listing
from ibot_hub.errors import SourceError, UsageError
from ibot_hub.images import decode
from ibot_hub.listing import Entry, Listing, write_listing

ROOT = Path(ibot_hub.listing.__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


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


# folders


def test_a_folder_is_sorted_by_the_parts_of_paths(home: Path) -> None:
    touch("in/b.jpg", "in/a/z.jpg", "in/a.jpg", "in/a/b/c.PNG", "in/B.JPEG", "in/a-b/x.webp", "in/10.jpg", "in/9.jpg")
    expected = ["10.jpg", "9.jpg", "B.JPEG", "a/b/c.PNG", "a/z.jpg", "a-b/x.webp", "a.jpg", "b.jpg"]
    assert names("in") == expected
    assert expected == sorted(expected, key=lambda name: name.split("/"))
    assert [entry.location for entry in entries("in/")] == [str(home / "in" / name) for name in expected]
    assert entries("in")[3].read() == b"<in/a/b/c.PNG>"


def test_only_visible_files_that_pillow_opens_are_listed(home: Path) -> None:
    touch("in/a.jpg", "in/.hidden.jpg", "in/.git/b.jpg", "in/c.txt", "in/d.pdf", "in/jpg", "in/e.h5", "in/x/.y/f.jpg", "in/notes", "in/g.")
    assert names("in") == ["a.jpg"]
    touch(".hidden/a.jpg")
    assert names(".hidden") == ["a.jpg"]  # asked for by name


def test_a_folder_that_is_called_like_an_image_is_a_folder(home: Path) -> None:
    touch("in/a.jpg/b.jpg", "in/c.tar/d.png")
    assert names("in") == ["a.jpg/b.jpg", "c.tar/d.png"]


def test_the_same_name_in_two_folders(home: Path) -> None:
    touch("in/x/a.jpg", "in/y/a.jpg")
    assert [(entry.name, entry.read()) for entry in entries("in")] == [("x/a.jpg", b"<in/x/a.jpg>"), ("y/a.jpg", b"<in/y/a.jpg>")]


def test_names_with_spaces_newlines_and_other_bytes(home: Path) -> None:
    wild = [b" a b .jpg", b"line\nfeed.jpg", b"caf\xe9.jpg", "日本.jpg".encode(), b"quo\"te'.jpg", b"tab\t.jpg", b"return\r.jpg"]
    touch(*(b"in/" + name for name in wild))
    found = entries("in")
    assert [os.fsencode(entry.name) for entry in found] == sorted(wild)
    assert [entry.read() for entry in found] == [b"<in/%s>" % name for name in sorted(wild)]
    shown = [entry.shown for entry in found]
    assert "caf\\xe9.jpg" in shown
    assert "日本.jpg" in shown
    assert "line\nfeed.jpg" in shown
    "".join(shown).encode()


def test_links_are_followed_and_loops_are_not(home: Path) -> None:
    touch("in/a.jpg", "elsewhere/b.jpg")
    Path("in/link").symlink_to(home / "elsewhere")
    Path("in/again").symlink_to(home / "elsewhere")
    Path("in/loop").symlink_to(home / "in")
    Path("elsewhere/up").symlink_to(home)
    Path("in/self.jpg").symlink_to("self.jpg")
    Path("in/file.jpg").symlink_to(home / "in/a.jpg")
    Path("in/broken.jpg").symlink_to("nowhere.jpg")
    Path("in/broken").symlink_to("nowhere")
    # elsewhere/up leads to home, where `in` is a folder that we are in, and so is `elsewhere`
    assert names("in") == ["a.jpg", "again/b.jpg", "broken.jpg", "file.jpg", "link/b.jpg", "self.jpg"]


def test_deep_folders(home: Path) -> None:
    deep = "/".join(["d"] * 1500)
    here = os.open(".", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d")  # noqa: PTH102
        os.chdir("d")
    Path("a.jpg").touch()
    os.fchdir(here)
    os.close(here)
    try:
        assert names("d") == [deep[2:] + "/a.jpg"]
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # too deep for shutil.rmtree, with which pytest would try


# the file


# nothing there


def test_sources_without_images(home: Path) -> None:
    Path("empty").mkdir()
    touch("texts/a.doc")
    Path("nothing.txt").write_text("\n \n\n")
    Path("nothing").touch()
    shard("no.tar", "a.txt")
    for source in ("empty", "texts", "nothing.txt", "nothing", "no.tar"):
        assert failure(source) == f"No image found in {source}."
    assert failure("-", stdin=io.BytesIO(b"")) == "No image found in the paths on standard input."
    assert failure("missing").startswith("There is no missing: ")
    assert failure(os.fsdecode(b"caf\xe9")).startswith("There is no caf\\xe9: ")
    touch("file.jpg")
    assert failure("file.jpg/x") == "file.jpg/x cannot be read: Not a directory."


UNREADABLE = """
import os, sys
from pathlib import Path
from ibot_hub.errors import IBotError
from ibot_hub.listing import write_listing
if os.getuid() == 0:  # no permission stops root
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for source in sys.argv[2:]:
    try:
        print(write_listing(source, Path(sys.argv[1], "listing")).count)
    except IBotError as error:
        print(error)
"""


def test_unreadable_folders_lists_and_shards() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("in/secret", "files", "shards", "out"):
            (folder / part).mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "out").chmod(0o777)
        for file in ("in/a.jpg", "in/secret/b.jpg", "files/a.jpg", "list.txt"):
            (folder / file).write_text("a.jpg")
        shard(str(folder / "shards/s.tar"), "a.jpg")
        for path in ("in/secret", "files/a.jpg", "list.txt", "shards/s.tar"):
            (folder / path).chmod(0)
        (folder / "files/link.jpg").symlink_to(folder / "in/secret/b.jpg")
        sources = [str(folder / part) for part in ("in", "in/secret", "files", "list.txt", "shards")]
        done = subprocess.run(
            [sys.executable, "-c", UNREADABLE, folder / "out", *sources], cwd=ROOT, capture_output=True, text=True, check=True
        )
        (folder / "in/secret").chmod(0o755)
    assert done.stdout.replace(name, "T").splitlines() == [
        "The folder T/in/secret cannot be read: Permission denied.",
        "The folder T/in/secret cannot be read: Permission denied.",
        "2",  # the files in it fail when they are read
        "T/list.txt cannot be read: Permission denied.",
        "The shard T/shards/s.tar cannot be read: Permission denied.",
    ]


# one image


def test_one_image(home: Path) -> None:
    touch("in/a.jpg")
    (found,) = entries("in/a.jpg")
    assert found == Entry("a.jpg", str(home / "in/a.jpg"))
    Image.new("RGB", (3, 2)).save("picture", "PNG")  # told by its bytes
    (found,) = entries("picture")
    assert decode(found.read()).size == (3, 2)


# lists


def test_a_list_of_paths(home: Path) -> None:
    text = b"\xef\xbb\xbfb.jpg\r\n\r\n  \n/abs/a.jpg\n sp ace .jpg\ncaf\xe9.jpg\nno image\nb.jpg"
    for file in ("list.txt", "list.lst", "LIST.LIST", "list", "list.csv"):
        Path(file).write_bytes(text)
        found = entries(file)
        assert [entry.shown for entry in found] == ["b.jpg", "/abs/a.jpg", " sp ace .jpg", "caf\\xe9.jpg", "no image", "b.jpg"]
        assert [os.fsencode(entry.location) for entry in found[:4]] == [
            os.fsencode(home) + b"/b.jpg", b"/abs/a.jpg", os.fsencode(home) + b"/ sp ace .jpg", os.fsencode(home) + b"/caf\xe9.jpg",
        ]  # fmt: skip


def test_a_list_separated_by_nuls_keeps_newlines(home: Path) -> None:
    Path("list").write_bytes(b"line\nfeed.jpg\0return\r\0\0b.jpg\0")
    assert names("list") == ["line\nfeed.jpg", "return\r", "b.jpg"]


def test_separators_are_not_mixed(home: Path) -> None:
    Path("list.txt").write_bytes(b"a.jpg\n" * 20_000 + b"b.jpg\0c.jpg\0")
    assert "some are separated by newlines and some by NULs" in failure("list.txt")


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
@pytest.mark.parametrize("end", [True, False])
def test_long_lists_are_read_in_blocks(home: Path, separator: bytes, end: bool) -> None:
    paths = [f"{number}/{'x' * (number % 97)}.jpg" for number in range(5_000)]
    Path("list.txt").write_bytes(separator.join(map(str.encode, paths)) + separator * end)
    assert names("list.txt") == paths


def test_paths_on_standard_input(home: Path) -> None:
    touch("a.jpg")
    found = entries("-", stdin=io.BytesIO(b"a.jpg\nsub/b.jpg\n"))
    assert [entry.name for entry in found] == ["a.jpg", "sub/b.jpg"]
    assert found[0].read() == b"<a.jpg>"
    with pytest.raises(UsageError, match="no stream"):
        listed("-")


def test_a_pipe_is_a_list(home: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a.jpg\0b.jpg\0")
    os.close(writing)
    assert names(f"/dev/fd/{reading}") == ["a.jpg", "b.jpg"]
    os.close(reading)


# shards


def test_a_shard_in_the_order_of_its_members(home: Path) -> None:
    long = "/".join(["folder" * 10] * 5) + "/c.jpg"
    members = ["b.jpg", "b.txt", "./a.PNG", "x/.hidden.jpg", ".x/a.jpg", "./._a.jpg", long, b"caf\xe9\n.jpg", "b.jpg"]
    shard("in/s.tar", *members)
    found = entries("in/s.tar")
    wanted = ["b.jpg", "./a.PNG", long, os.fsdecode(b"caf\xe9\n.jpg"), "b.jpg"]
    assert [entry.name for entry in found] == ["s.tar/" + name.removeprefix("./") for name in wanted]
    assert [entry.read() for entry in found] == [(os.fsencode(name) * 700)[:700] for name in wanted]
    assert {entry.location for entry in found} == {str(home / "in/s.tar")}
    with tarfile.open("in/s.tar") as tar:
        assert found[0].offset == tar.getmembers()[0].offset_data


def test_shards_in_a_folder_take_their_place_in_the_order(home: Path) -> None:
    touch("in/a.jpg", "in/sub/z.jpg")
    shard("in/b.tar", "2.jpg", "1.jpg")
    shard("in/sub/B.TAR", "x.jpg")
    assert names("in") == ["a.jpg", "b.tar/2.jpg", "b.tar/1.jpg", "sub/B.TAR/x.jpg", "sub/z.jpg"]


def test_braces_name_shards(home: Path) -> None:
    for number in range(8, 12):
        shard(f"shards/img-{number:03d}.tar", f"{number}.jpg")
        shard(f"d{number}/x.tar", "a.jpg")
    expected = [f"img-{number:03d}.tar/{number}.jpg" for number in range(8, 12)]
    assert names("shards/img-{008..011}.tar") == expected
    assert names(home / "shards/img-{008..011}.tar") == expected
    assert names("d{8..11}/x.tar") == [f"d{number}/x.tar/a.jpg" for number in range(8, 12)]
    shard("d10/y-3.tar", "b.jpg")
    shard("d11/y-3.tar", "b.jpg")
    assert names("d{10..11}/y-{3..3}.tar") == ["d10/y-3.tar/b.jpg", "d11/y-3.tar/b.jpg"]
    assert "shards/img-012.tar cannot be read: No such file" in failure("shards/img-{011..012}.tar")
    assert failure("shards/img-{11..10}.tar") == "No image found in shards/img-{11..10}.tar."
    Path("shards/img-{008..011}.tar").write_bytes(Path("shards/img-009.tar").read_bytes())
    assert names("shards/img-{008..011}.tar") == ["img-{008..011}.tar/9.jpg"]  # a file of that very name


def test_compressed_tars_are_refused(home: Path) -> None:
    shard("s.tar", "a.jpg")
    for file in ("s.tar.gz", "t.tar", "s.tgz"):
        Path(file).write_bytes(gzip.compress(Path("s.tar").read_bytes()))
        assert failure(file).startswith(f"{home}/{file} is compressed with gzip; ")


def test_truncated_shards(home: Path) -> None:
    shard("s.tar", *(f"{number}.jpg" for number in range(5)))
    whole = Path("s.tar").read_bytes()
    member = 512 + 1024
    for size in (0, 1, 511, 512, 600, 1300, member, member + 100, 2 * member + 512, 4 * member + 1200, 5 * member, 5 * member + 100):
        Path("t.tar").write_bytes(whole[:size])
        assert f"{home}/t.tar is" in failure("t.tar"), size
    Path("t.tar").write_bytes(whole[: 5 * member + 512])  # one block of the two at the end is enough
    assert len(names("t.tar")) == 5


def test_damaged_shards(home: Path) -> None:
    shard("s.tar", "a.jpg", "b.jpg")
    whole = bytearray(Path("s.tar").read_bytes())
    whole[1536:1636] = b"\xff" * 100  # the second header
    Path("s.tar").write_bytes(whole)
    assert "cut off or damaged" in failure("s.tar")
    Path("s.tar").write_text("no tar at all" * 100)
    assert "is no whole tar" in failure("s.tar")


def test_members_without_bytes_of_their_own_are_refused(home: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with tarfile.open("s.tar", "w") as tar:
            info = tarfile.TarInfo("link.jpg")
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
        assert "link.jpg is a link or has holes; pack with --dereference" in failure("s.tar")
    with tarfile.open("s.tar", "w") as tar:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("folder.jpg/empty.jpg"))
    (found,) = entries("s.tar")
    assert found.name == "s.tar/folder.jpg/empty.jpg"
    assert found.read() == b""
