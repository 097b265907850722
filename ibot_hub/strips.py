"""A source of images becomes a folder of attention strips, a picture for each image and a moving one for each that moves."""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from ibot_hub.attention import attention_maps
from ibot_hub.draw.attention import draw_attention, draw_moving
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.images import ImageTransform, decode, image_extensions, opened
from ibot_hub.listing import Entry, Listing, write_listing
from ibot_hub.model import Model
from ibot_hub.options import AttentionOptions
from ibot_hub.sources import kind_of, shown
from ibot_hub.video import VIDEOS, Clip, count_frames, open_animation, open_video, write_mp4, write_webp
from ibot_hub.writing import whole

STILL, MOVING = (".png",), (".mp4", ".webp")  # the endings that are written
NAME = 200  # bytes of a name that are kept, which leaves room for a number and the endings in the 255 of a file system
ENTRIES = 1000  # of the listing that are held in memory


@dataclass(frozen=True)
class Strips:
    """What `write_strips` did."""

    out: Path  # the folder, or the one file
    images: int  # of the source, a moving picture counted once
    failed: tuple[tuple[str, str], ...]  # name and reason of each that could not be read


@dataclass(frozen=True, eq=False)
class _Job:
    model: Model
    options: AttentionOptions
    transform: ImageTransform
    out: Path
    taken: set[Path]  # what this run has written


def check_request(source: str, out: Path, options: AttentionOptions) -> None:
    """What can be known to be wrong before a model is loaded: raises SourceError or UsageError."""
    ImageTransform(size=options.size, resize=options.resize)
    kind = kind_of(source)
    if _is_file(out) and kind != "image":
        raise UsageError(f"{shown(source)} may hold several images, so --out names a folder, not a file such as {out}.")
    if source != "-" and os.path.realpath(source) == os.path.realpath(out):
        raise UsageError(f"--out is the source itself, {out}; choose another.")
    if _is_file(out) and out.suffix.lower() not in STILL + MOVING:
        raise UsageError(f"{out} cannot be written: pictures become .png, moving ones .mp4 or .webp.")


def write_strips(
    model: Model, source: str | Path, out: str | Path, options: AttentionOptions | None = None, *, stdin: BinaryIO | None = None
) -> Strips:
    """Draw the attention maps of every image of a source (see `draw_attention`) into files.

    `out` is a folder, in which each strip has its image's name with an ending added: `a/1.jpg` becomes `out/a/1.jpg.png`, a
    video `film.mov.mp4`, an animated GIF, WebP, PNG or AVIF `fox.gif.webp`. Names that are taken get a number. Of one image
    `out` may be the file itself; its ending, .png, .mp4 or .webp, then says what is written. Earlier files are overwritten.
    Frames are read, drawn and written one by one, each at its own time. Where `out` lies in the source folder, what is in it
    is no part of the source.

    Args:
        source: as for `ibot_hub.extract`; a folder's or shard's videos are not looked for, a list may name them.
        stdin: where the source is "-".

    Raises:
        SourceError, UsageError: see `check_request`, `draw_attention` and `attention_maps`; StoreError: `out` cannot be written.
    """
    options, source, out = options or AttentionOptions(), str(source), Path(out)
    check_request(source, out, options)
    own = os.path.join(os.path.abspath(out), "") if kind_of(source) == "folder" else None  # noqa: PTH100, PTH118  as text
    job = _Job(model, options, replace(model.transform, size=options.size, resize=options.resize), out, set())
    images, failed = 0, []
    with tempfile.TemporaryDirectory(prefix="ibot-") as scratch:
        listing = write_listing(source, Path(scratch) / "listing.parquet", stdin=stdin)
        # of a single one the frames have their bar
        with tqdm(total=listing.count, unit="img", file=sys.stderr, disable=listing.count == 1 or None) as bar:
            for entry in _entries(listing):
                if own is None or not os.path.abspath(entry.location).startswith(own):  # noqa: PTH100
                    images += 1
                    try:
                        _write_strip(job, entry)
                    except ImageError as error:
                        failed.append((entry.shown, str(error)))
                bar.update()
    return Strips(out, images, tuple(failed))


def _entries(listing: Listing) -> Iterator[Entry]:
    for first in range(0, listing.count, ENTRIES):
        yield from listing.entries(first, first + ENTRIES)


def _write_strip(job: _Job, entry: Entry) -> None:
    if _is_video(entry):
        with opened(entry.location) as file, open_video(file) as video:
            _write_moving(job, entry, video, ".mp4")
        return
    data = entry.read()
    image = decode(data)
    animation = open_animation(data)
    if animation:
        _write_moving(job, entry, animation, ".webp")
        return
    maps = attention_maps(job.model, image, job.options.layer, transform=job.transform)
    strip = draw_attention(image, maps, mass=job.options.mass, heads=job.options.chosen_heads)
    with whole(_target(job, entry, ".png", STILL)) as partial, partial.open("w+b") as file:
        strip.save(file, "PNG")


def _write_moving(job: _Job, entry: Entry, clip: Clip, ending: str) -> None:
    options = job.options
    target = _target(job, entry, ending, MOVING)
    bar = tqdm(clip.frames, desc=entry.shown, total=clip.count, unit="frame", leave=False, file=sys.stderr, disable=None)
    seen = ((frame, attention_maps(job.model, frame.image, options.layer, transform=job.transform)) for frame in bar)
    strips = draw_moving(seen, mass=options.mass, heads=options.chosen_heads)
    with whole(target) as partial, partial.open("w+b") as file:
        if target.suffix.lower() == ".mp4":
            write_mp4(file, strips, clip.rate, clip.tick)
        else:
            write_webp(file, strips, _count(entry, clip))


def _count(entry: Entry, clip: Clip) -> int:
    """The frames of a clip, which the header of a video may tell wrongly."""
    if clip.count and not _is_video(entry):
        return clip.count
    with opened(entry.location) as file:
        return count_frames(file)


def _is_video(entry: Entry) -> bool:
    return Path(entry.name).suffix.lower() in VIDEOS


def _is_file(out: Path) -> bool:
    """Whether OUT is the one file to write, by its ending."""
    return out.suffix.lower() in image_extensions() | VIDEOS and not out.is_dir()


def _target(job: _Job, entry: Entry, ending: str, endings: tuple[str, ...]) -> Path:
    """The file to write, in the folder OUT whatever the entry's name is, and no file that this run has written."""
    if _is_file(job.out):
        if job.out.suffix.lower() not in endings:
            kind = "does not move" if endings == STILL else "moves"
            raise UsageError(f"{entry.shown} {kind}, so it becomes {' or '.join(endings)}, not {job.out.name}.")
        return job.out
    parts = ["__" if part == ".." else part for part in entry.name.split("/") if part not in ("", ".")]
    # a folder whose name ends like a strip could meet the strip of an image
    folders = [part + "_" if part.lower().endswith(STILL + MOVING) else part for part in parts[:-1]]
    stem = os.fsdecode(os.fsencode(parts[-1])[:NAME])
    names = (f"{stem}-{number}{ending}" if number > 1 else stem + ending for number in count(1))
    target = next(target for name in names if (target := job.out.joinpath(*folders, name)) not in job.taken)
    job.taken.add(target)
    return target
