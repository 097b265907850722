"""Moving pictures as frames one by one: videos and animated files in, MP4 and animated WebP out."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any, BinaryIO

from PIL import Image

from ibot_hub.errors import ImageError, StoreError, UsageError
from ibot_hub.images import BROKEN, to_rgb

VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
ANIMATED = frozenset({"AVIF", "GIF", "PNG", "WEBP"})  # other formats of several pictures, such as TIFF, have pages
MOMENT = Fraction(1, 10)  # seconds that a frame is shown where an animated file does not say, as browsers do
LONGEST = 16_383  # pixels of a side, in WebP and H.264


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of several."""

    image: Image.Image  # RGB
    start: Fraction  # seconds since the first frame
    length: Fraction  # seconds that it is shown


@dataclass(frozen=True, eq=False)
class Clip:
    """A moving picture, whose frames can be taken once."""

    frames: Iterator[Frame]
    count: int | None  # frames; of a video what its container says, which may be wrong or nothing
    rate: Fraction  # frames a second, on average
    tick: Fraction  # seconds: every start is a multiple of it


@contextmanager
def open_video(file: BinaryIO) -> Iterator[Clip]:
    """A video as its frames, turned and stretched as its container asks; sound is left out. Needs PyAV.

    Every frame comes in the size of the first. Raises `ImageError`, also from the frames, for what is no video or a broken one,
    and `UsageError` where PyAV is missing.
    """
    av = _pyav()
    with _reported(av):
        container = av.open(file)
    with container:
        streams = [stream for stream in container.streams.video if stream.codec_context]
        if not streams:
            raise ImageError("no video in it that can be decoded")
        stream = streams[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        yield Clip(_decoded(av, container, stream, rate), stream.frames or None, rate, Fraction(stream.time_base))


def count_frames(file: BinaryIO) -> int:
    """How many frames a video has, by decoding it."""
    with open_video(file) as clip:
        return sum(1 for _ in clip.frames)


def open_animation(data: bytes) -> Clip | None:
    """An animated GIF, WebP, PNG or AVIF as its frames on white; None for any other image, which holds a single picture.

    Raises `ImageError`, also from the frames, for a broken one.
    """
    try:
        image = Image.open(io.BytesIO(data))
        count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
        if count == 1:
            return None
        image.load()  # only then a WebP says how long its first frame is shown
    except BROKEN as error:
        raise ImageError(f"broken image: {error}") from error
    # how long the others are shown is known only when they are read, so the rate is that of the first
    return Clip(_unrolled(image, count), count, 1 / _moment(image), Fraction(1, 1000))


def write_mp4(file: BinaryIO, frames: Iterable[Frame], rate: Fraction, tick: Fraction) -> None:
    """Frames as H.264 that every player takes (yuv420p, BT.709), each at its own time; odd sides get a white pixel. Needs PyAV."""
    av = _pyav()
    stream: Any = None
    try:
        with av.open(file, "w", format="mp4") as container:
            for frame in frames:
                _check_size(frame.image)
                width, height = (side + side % 2 for side in frame.image.size)
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    stream.codec_context.time_base = tick
                    for name in ("colorspace", "color_primaries", "color_trc", "color_range"):
                        setattr(stream.codec_context, name, 1)  # BT.709, and the range of television
                paper = Image.new("RGB", (width, height), "white")
                paper.paste(frame.image)
                picture = av.VideoFrame.from_image(paper).reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                picture.time_base, picture.pts, picture.duration = tick, round(frame.start / tick), round(frame.length / tick)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise StoreError(f"The video cannot be written: {(error.strerror or str(error)).lower()}; take .webp instead of .mp4.") from error


def write_webp(file: BinaryIO, frames: Iterator[Frame], count: int) -> None:
    """`count` frames as an animated WebP that starts again for ever; no more than one is held in memory as pixels."""
    reel = _Reel(frames, count)
    reel.image.save(file, "WEBP", save_all=True, append_images=[reel], duration=reel.milliseconds, loop=0, quality=90, method=4)


class _Reel:
    """What Pillow's WebP writer takes for an image of many frames, each drawn when it comes to it.

    Given a list, Pillow would want all frames at once.
    """

    def __init__(self, frames: Iterator[Frame], count: int) -> None:
        self._frames = frames
        self.n_frames = count - 1  # after the first
        self.milliseconds: list[int] = []
        self.seek(0)

    def seek(self, _: int) -> None:
        frame = next(self._frames)
        _check_size(frame.image)
        self.image = frame.image
        # of the times, not of the lengths: rounding must not add up
        self.milliseconds.append(round((frame.start + frame.length) * 1000) - round(frame.start * 1000))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.image, name)


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise UsageError("Reading or writing a video needs PyAV; pip install 'ibot-hub[video]'.") from error
    return av


@contextmanager
def _reported(av: ModuleType) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise ImageError(f"broken video: {(error.strerror or str(error)).lower()}") from error


def _decoded(av: ModuleType, container: Any, stream: Any, rate: Fraction) -> Iterator[Frame]:
    """The frames of a video; the time of each is known with the next one, that of the last is taken from the rate."""
    size: tuple[int, int] | None = None
    image, start, origin = None, Fraction(0), None
    with _reported(av):
        for frame in container.decode(stream):
            stretch = stream.sample_aspect_ratio or 1
            size = size or (round(frame.width * stretch), frame.height)
            if image is None:
                origin = frame.pts
            else:
                untimed = origin is None or frame.pts is None
                after = start + 1 / rate if untimed else (frame.pts - origin) * Fraction(stream.time_base)
                after = max(after, start + Fraction(stream.time_base))  # joined and damaged files jump back
                yield Frame(image, start, after - start)
                start = after
            image = frame.to_image(width=size[0], height=size[1]).rotate(frame.rotation, expand=True)
    if image is None:
        raise ImageError("a video without frames")
    yield Frame(image, start, 1 / rate)


def _unrolled(image: Image.Image, count: int) -> Iterator[Frame]:
    start = Fraction(0)
    for index in range(count):
        try:
            image.seek(index)
            image.load()
        except BROKEN as error:
            raise ImageError(f"broken {image.format} from frame {index} on: {error}") from error
        length = _moment(image)
        yield Frame(to_rgb(image.copy()), start, length)
        start += length


def _moment(image: Image.Image) -> Fraction:
    """Seconds that the frame at hand is shown."""
    return Fraction(round(image.info.get("duration", 0)), 1000) or MOMENT


def _check_size(image: Image.Image) -> None:
    if max(image.size) > LONGEST:
        raise StoreError(
            f"A moving picture of {image.width} x {image.height} pixels cannot be written, at most {LONGEST} a side; "
            "choose a smaller --size or fewer --heads."
        )
