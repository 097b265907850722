"""What a source of images is, and the images in it one by one, in an order that the file system has no part in."""

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from ibot_hub.errors import SourceError, UsageError
from ibot_hub.images import image_extensions

BLOCK = 65_536  # bytes; longer than any path, so that the first block of `find -print0` holds a NUL
LISTS = frozenset({".txt", ".lst", ".list"})
TAR_NAME = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz)$", re.IGNORECASE)
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")  # what no text has; NUL separates the paths of `find -print0`

Kind = Literal["stdin", "folder", "tar", "tars", "image", "list"]


class Row(NamedTuple):
    """One image as the listing holds it."""

    name: bytes
    location: bytes
    offset: int
    size: int


def file_state(location: str | bytes) -> tuple[int, int]:
    """Size in bytes and time of change in ns of a file, so that another one under its name is noticed; -1 if it is not there."""
    try:
        facts = os.stat(location)  # noqa: PTH116  in bytes
    except OSError:  # that it cannot be read is told when it is read
        return -1, -1
    return facts.st_size, facts.st_mtime_ns


def shown(name: str | bytes) -> str:
    """A path as valid UTF-8, with any other byte as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def named(source: str) -> str:
    """A source as a sentence names it."""
    return "the paths on standard input" if source == "-" else shown(source)


def kind_of(source: str) -> Kind:
    """What `source` is, by what is there and how it begins. Raises SourceError if nothing is there or it cannot be read."""
    if source == "-":
        return "stdin"
    if not source:
        raise SourceError("The source is an empty name; give an image, a folder, a list of paths, a .tar, or - .")
    path = Path(source)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "folder"
        if not stat.S_ISREG(mode):  # a pipe, as in <(find ...)
            return "list"
        with path.open("rb") as stream:
            head = stream.read(BLOCK)
    except FileNotFoundError as error:
        if BRACES.search(source):
            return "tars"
        raise SourceError(f"There is no {shown(source)}: a source is an image, a folder, a list of paths, a .tar, or - .") from error
    except OSError as error:
        raise SourceError(f"{shown(source)} cannot be read: {error.strerror}.") from error
    suffix = path.suffix.lower()
    if TAR_NAME.search(path.name) or head[257:262] == b"ustar":
        return "tar"
    if suffix in image_extensions():
        return "image"
    return "list" if suffix in LISTS or not CONTROL.search(head) else "image"


def rows_of(kind: Kind, source: str, stdin: BinaryIO | None) -> Iterator[Row]:
    """The images of `source` in order. Raises SourceError for a folder that cannot be read or a broken shard."""
    path = Path(source)
    if kind == "folder":
        yield from _folder_rows(os.fsencode(path.absolute()))
    elif kind == "tar":
        yield from _tar_rows(os.fsencode(path.absolute()), os.fsencode(path.name))
    elif kind == "tars":
        root = Path(source.partition("{")[0] + "_").parent
        for shard in map(Path, _expanded(source)):
            yield from _tar_rows(os.fsencode(shard.absolute()), os.fsencode(shard.relative_to(root)))
    elif kind == "image":
        yield Row(os.fsencode(path.name), os.fsencode(path.absolute()), -1, -1)
    elif kind == "list":
        try:
            with path.open("rb") as stream:
                yield from _list_rows(stream, source)
        except OSError as error:
            raise SourceError(f"{shown(source)} cannot be read: {error.strerror}.") from error
    elif stdin is None:
        raise UsageError("The source is -, but no stream was given to read paths from.")
    else:
        yield from _list_rows(stdin, source)


def _expanded(pattern: str) -> Iterator[str]:
    """img-{000..012}.tar -> img-000.tar, ..., img-012.tar; several braces count like the wheels of a meter."""
    braces = BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    first, last = braces.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{pattern[: braces.start()]}{number:0{len(first)}d}{pattern[braces.end() :]}")


def _list_rows(stream: BinaryIO, source: str) -> Iterator[Row]:
    folder = os.fsencode(Path.cwd())
    block = stream.read(BLOCK)
    separator = b"\0" if b"\0" in block else b"\n"
    rest = block.removeprefix(b"\xef\xbb\xbf")  # Windows marks UTF-8 so
    while rest or block:
        *names, rest = rest.split(separator) if block else (rest, b"")
        for name in names:
            name = name.removesuffix(b"\r") if separator == b"\n" else name
            if b"\0" in name:
                raise SourceError(f"{named(source)}: some are separated by newlines and some by NULs; use one of the two.")
            if name.strip():
                yield Row(name, os.path.join(folder, name), -1, -1)  # noqa: PTH118  pathlib takes five times as long
        block = stream.read(BLOCK)
        rest += block


def _folder_rows(root: bytes) -> Iterator[Row]:
    for relative in _walk(root):
        path = root.rstrip(b"/") + b"/" + relative
        if relative.lower().endswith(b".tar"):
            yield from _tar_rows(path, relative)
        else:
            yield Row(relative, path, -1, -1)


def _walk(root: bytes) -> Iterator[bytes]:
    """Images and shards below `root`, relative to it, sorted by the parts of their paths; a link back to a folder above is not followed."""
    wanted = {os.fsencode(extension) for extension in image_extensions() | {".tar"}}
    levels = [iter([(b"", True)])]  # what is left of each folder that we are in
    above: list[tuple[int, int]] = []  # device and inode of these folders
    while levels:
        relative, is_folder = next(levels[-1], (None, False))
        if relative is None:
            levels.pop()
            del above[len(levels) - 1 :]
        elif not is_folder:
            yield relative
        else:
            path = (root + b"/" + relative).rstrip(b"/") or b"/"
            try:
                status = os.stat(path)  # noqa: PTH116  in bytes
                if (status.st_dev, status.st_ino) not in above:
                    levels.append(_children(path, relative, wanted))
                    above.append((status.st_dev, status.st_ino))
            except OSError as error:
                raise SourceError(f"The folder {shown(path)} cannot be read: {error.strerror}.") from error


def _children(path: bytes, relative: bytes, wanted: set[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The folders and wanted files in one folder, sorted: (path relative to the root, whether it is a folder)."""
    names, folders = [], set()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b"."):
                continue
            if _is_folder(entry):
                folders.add(name)
            elif name[name.rfind(b".") :].lower() not in wanted:  # without a dot: its last letter, which is not wanted
                continue
            names.append(name)
    names.sort()
    return ((relative + name + b"/" * (name in folders), name in folders) for name in names)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a place that we may not see: whether it is an image shows when it is read
        return False


def _tar_rows(path: bytes, name: bytes) -> Iterator[Row]:
    wanted = image_extensions()
    try:
        with open(path, "rb") as stream:  # noqa: PTH123  in bytes
            head = stream.read(6)
            for magic, method in COMPRESSED.items():
                if head.startswith(magic):
                    raise SourceError(
                        f"{shown(path)} is compressed with {method}; unpack it to a plain .tar, of which any image can be read alone."
                    )
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while member := tar.next():
                    tar.members.clear()  # type: ignore[attr-defined]  # else it remembers them all
                    inner = PurePosixPath(member.name)
                    hidden = any(part.startswith(".") and part != ".." for part in inner.parts)
                    if member.isdir() or hidden or inner.suffix.lower() not in wanted:
                        continue
                    if not member.isreg() or member.issparse():
                        raise SourceError(
                            f"{shown(path)}: {shown(member.name)} is a link or has holes; pack with --dereference --hard-dereference."
                        )
                    yield Row(name + b"/" + os.fsencode(member.name.removeprefix("./")), path, member.offset_data, member.size)
                stream.seek(tar.offset)
                if stream.read(512) != bytes(512):
                    raise SourceError(f"{shown(path)} is cut off or damaged: it does not end as a tar ends.")
    except OSError as error:
        raise SourceError(f"The shard {shown(path)} cannot be read: {error.strerror}.") from error
    except (tarfile.TarError, ValueError) as error:
        raise SourceError(f"{shown(path)} is no whole tar: {error}.") from error
