"""Frames come in and go out at their own times and in their own colours, and only a few at once are held."""

import io
import sys
import weakref
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from ibot_hub.errors import ImageError, StoreError, UsageError
from ibot_hub.video import Clip, Frame, count_frames, open_animation, open_video, write_mp4, write_webp

NTSC = Fraction(30000, 1001)
RED, BLUE = (200, 40, 30), (20, 60, 220)


def drawn(index: int, size: tuple[int, int] = (61, 41)) -> Image.Image:
    """A blue square on red, that goes to the right with each frame, and begins again on the left."""
    image, left = Image.new("RGB", size, RED), 2 * (index % 25)
    ImageDraw.Draw(image).rectangle((left, 4, left + 9, 19), fill=BLUE)
    return image


def frames(count: int, rate: Fraction = NTSC) -> Iterator[Frame]:
    return (Frame(drawn(index), index / rate, 1 / rate) for index in range(count))


def mp4(some: Iterator[Frame], rate: Fraction = NTSC, tick: Fraction = 1 / NTSC) -> io.BytesIO:
    file = io.BytesIO()
    write_mp4(file, some, rate, tick)
    file.seek(0)
    return file


def taken(file: io.BytesIO) -> list[Frame]:
    with open_video(file) as clip:
        return list(clip.frames)


def animation(data: bytes) -> Clip:
    clip = open_animation(data)
    assert clip is not None
    return clip


def close(pixel: object, colour: tuple[int, int, int], most: int = 6) -> bool:
    return bool(abs(np.subtract(pixel, colour)).max() <= most)  # type: ignore[arg-type]


def test_a_video_comes_out_as_it_went_in() -> None:
    file = mp4(frames(20))
    with open_video(file) as clip:
        assert (clip.count, clip.rate) == (20, NTSC)
        seen = list(clip.frames)
    assert [(frame.start, frame.length) for frame in seen] == [(index / NTSC, 1 / NTSC) for index in range(20)]
    assert {frame.image.size for frame in seen} == {(62, 42)}  # even sides
    for index, frame in enumerate(seen):
        assert close(frame.image.getpixel((2 * index + 5, 12)), BLUE)
        assert close(frame.image.getpixel((59, 30)), RED)
    file.seek(0)
    assert count_frames(file) == 20


def test_what_is_written_is_what_every_player_takes() -> None:
    with av.open(mp4(frames(3))) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
        assert "mp4" in container.format.name


def test_each_frame_keeps_its_own_time() -> None:
    lengths = [Fraction(milliseconds, 1000) for milliseconds in (40, 500, 20, 333, 70)]
    starts = [sum(lengths[:index], Fraction(0)) for index in range(5)]
    uneven = (Frame(drawn(index), starts[index], lengths[index]) for index in range(5))
    seen = taken(mp4(uneven, Fraction(10), Fraction(1, 1000)))
    assert [frame.start for frame in seen] == starts
    assert [frame.length for frame in seen][:4] == lengths[:4]


def test_a_video_is_turned_and_stretched_as_it_asks() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        stream.set_display_rotation(90)
        for index in range(2):
            container.mux(stream.encode(av.VideoFrame.from_image(drawn(index, (64, 48)))))
        container.mux(stream.encode(None))
    file.seek(0)
    image = taken(file)[0].image
    assert image.size == (48, 96)
    expected = drawn(0, (64, 48)).resize((96, 48)).rotate(90, expand=True)
    assert abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 5


def test_frames_are_not_kept() -> None:
    """Of fifty frames only a few are there at any time, on the way in and on the way out."""
    made, gone, most = 0, [], 0

    def watched(source: Iterator[Frame]) -> Iterator[Frame]:
        nonlocal made, most
        for frame in source:
            weakref.finalize(frame.image, gone.append, None)
            made += 1
            most = max(most, made - len(gone))
            yield frame

    with open_video(mp4(frames(50))) as clip:
        data = mp4(watched(clip.frames))
    assert most <= 3
    file = io.BytesIO()
    write_webp(file, watched(frames(50)), 50)
    assert most <= 3
    assert made == 100
    assert len(taken(data)) == animation(file.getvalue()).count == 50


@pytest.mark.parametrize("count", [1, 12])
def test_webp_holds_all_frames_for_as_long_as_they_last(count: int) -> None:
    file = io.BytesIO()
    write_webp(file, frames(count), count)
    if count == 1:
        assert open_animation(file.getvalue()) is None
        return
    seen = list(animation(file.getvalue()).frames)
    assert len(seen) == 12
    assert seen[11].start == Fraction(367, 1000)  # 11 / 29.97 s: what is lost in rounding does not add up
    assert close(seen[10].image.getpixel((25, 12)), BLUE, 12)
    assert close(seen[10].image.getpixel((10, 12)), RED, 12)
    with Image.open(file) as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_files_are_read_frame_by_frame(kind: str) -> None:
    file, lengths = io.BytesIO(), [40, 500, 20, 330]
    images = [drawn(index).quantize(4) if kind == "GIF" else drawn(index) for index in range(4)]
    images[0].save(file, kind, save_all=True, append_images=images[1:], duration=lengths, loop=0)
    clip = animation(file.getvalue())
    seen = list(clip.frames)
    assert (clip.count, clip.rate, clip.tick) == (4, 25, Fraction(1, 1000))
    assert [frame.length * 1000 for frame in seen] == lengths
    assert [frame.start * 1000 for frame in seen] == [0, 40, 540, 560]
    for index, frame in enumerate(seen):
        assert (frame.image.mode, frame.image.size) == ("RGB", (61, 41))
        assert close(frame.image.getpixel((2 * index + 5, 12)), BLUE, 12)
        assert close(frame.image.getpixel((50, 30)), RED, 12)


def test_frames_without_a_time_last_a_tenth_of_a_second_and_lie_on_white() -> None:
    clear = [Image.new("RGBA", (8, 8), (0, 0, 0, 0)) for _ in range(2)]
    for index, image in enumerate(clear):
        image.putpixel((index, 0), (255, 0, 0, 255))
    file = io.BytesIO()
    clear[0].save(file, "GIF", save_all=True, append_images=clear[1:], disposal=2)
    seen = list(animation(file.getvalue()).frames)
    assert [frame.length for frame in seen] == [Fraction(1, 10)] * 2
    assert seen[1].image.getpixel((1, 0)) == (255, 0, 0)
    assert seen[1].image.getpixel((0, 0)) == (255, 255, 255)


def test_pages_do_not_move() -> None:
    file = io.BytesIO()
    drawn(0).save(file, "TIFF", save_all=True, append_images=[drawn(1)])
    assert open_animation(file.getvalue()) is None


def test_what_is_broken_is_said_in_one_line() -> None:
    whole = mp4(frames(20)).getvalue()
    for data in (b"", b"no video" * 100, whole[: len(whole) // 2]):
        with pytest.raises(ImageError, match=r"^broken video: [a-z ]+$"):
            taken(io.BytesIO(data))
    damaged = bytearray(whole)
    start = damaged.index(b"mdat") + 800
    damaged[start : start + 700 : 3] = b"\xff" * len(range(start, start + 700, 3))
    with pytest.raises(ImageError, match=r"^broken video: [a-z ]+$"):
        taken(io.BytesIO(bytes(damaged)))
    gif = io.BytesIO()
    drawn(0).save(gif, "GIF", save_all=True, append_images=[drawn(index) for index in range(1, 9)])
    with pytest.raises(ImageError, match="broken"):
        list(animation(gif.getvalue()[:-200]).frames)


def test_sound_alone_and_nothing_at_all_are_no_video() -> None:
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    sound.seek(0)
    with pytest.raises(ImageError, match="no video in it that can be decoded"):
        taken(sound)
    empty = io.BytesIO()
    with av.open(empty, "w", format="mp4", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    empty.seek(0)
    with pytest.raises(ImageError, match="a video without frames"):
        taken(empty)


def test_pictures_too_large_to_be_written_are_refused() -> None:
    wide = Frame(Image.new("RGB", (16_384, 2)), Fraction(0), Fraction(1))
    for write in (lambda: mp4(iter([wide])), lambda: write_webp(io.BytesIO(), iter([wide]), 1)):
        with pytest.raises(StoreError, match="16384 x 2 pixels cannot be written, at most 16383 a side; choose a smaller --size"):
            write()


def test_without_pyav_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"needs PyAV; pip install 'ibot-hub\[video\]'"), open_video(io.BytesIO()):
        pass
    with pytest.raises(UsageError, match=r"needs PyAV; pip install 'ibot-hub\[video\]'"):
        mp4(frames(1))
