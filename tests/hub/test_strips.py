"""Every image of a source has its strip under its own name; what is broken is named, and nothing is written by halves."""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot_hub.attention import attention_maps
from ibot_hub.draw.attention import draw_attention
from ibot_hub.errors import IBotError, SourceError, StoreError, UsageError
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import AttentionOptions
from ibot_hub.strips import check_request, write_strips
from ibot_hub.video import Frame, open_animation, open_video, write_mp4

SMALL = AttentionOptions(size=48)
RATE = Fraction(12)


@pytest.fixture(scope="module")
def model(golden: Path) -> Model:
    return load(golden / "vit_micro_checkpoint.pth")


def picture(number: int) -> Image.Image:
    values = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((64, 48), Image.Resampling.BICUBIC)


def save(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)
    return path


def gif(path: Path, count: int) -> Path:
    picture(0).save(path, "GIF", save_all=True, append_images=[picture(number) for number in range(1, count)], duration=120)
    return path


def film(path: Path, count: int) -> Path:
    frames: Iterator[Frame] = (Frame(picture(number), number / RATE, 1 / RATE) for number in range(count))
    with path.open("wb") as file:
        write_mp4(file, frames, RATE, 1 / RATE)
    return path


def written(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_a_strip_is_what_the_python_calls_draw(model: Model, photos: Path, tmp_path: Path) -> None:
    options = AttentionOptions(size=64, resize="squash", mass=0.4, layer=0, heads="1,0")
    image = photos / "two_dogs.jpg"
    result = write_strips(model, image, tmp_path / "strip.png", options)
    assert (result.out, result.images, result.failed) == (tmp_path / "strip.png", 1, ())
    maps = attention_maps(model, image, 0, transform=replace(model.transform, size=64, resize="squash"))
    with Image.open(tmp_path / "strip.png") as strip:
        assert np.array_equal(strip, draw_attention(image, maps, mass=0.4, heads=(1, 0)))
        height = strip.height
    assert written(tmp_path) == ["strip.png"]
    assert write_strips(model, image, tmp_path / "strip.png", SMALL).failed == ()  # an earlier one is overwritten
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.height != height


def test_names_are_the_source_s_and_never_meet(model: Model, tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg", "1.jpg", "1.png", "1.jpg.png/2.png", "c/" + "x" * 240 + "1.png", "c/" + "x" * 240 + "2.png"]
    for number, name in enumerate(names):
        save(tmp_path / "source" / name, number)
    out = tmp_path / "out"
    result = write_strips(model, tmp_path / "source", out, SMALL)
    assert (result.images, result.failed) == (7, ())
    long = "c/" + "x" * 200
    expected = ["a/1.jpg.png", "b/1.jpg.png", "1.jpg.png", "1.png.png", "1.jpg.png_/2.png.png", f"{long}.png", f"{long}-2.png"]
    assert written(out) == sorted(expected)
    assert len({(out / name).read_bytes() for name in expected}) == 7


def test_no_name_leads_out_of_the_folder(model: Model, tmp_path: Path) -> None:
    """A list with an absolute path and one that goes up, and a shard with a member that goes up and one that is there twice."""
    absolute = save(tmp_path / "one.png")
    (tmp_path / "list.txt").write_text(f"{absolute}\n{tmp_path}/x/../one.png\n{absolute}\n")
    (tmp_path / "x").mkdir()
    write_strips(model, tmp_path / "list.txt", tmp_path / "out", SMALL)
    inner = tmp_path.relative_to("/").as_posix()
    assert written(tmp_path / "out") == sorted([f"{inner}/one.png.png", f"{inner}/one.png-2.png", f"{inner}/x/__/one.png.png"])
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("../up.png", "in.png", "in.png"):
            tar.add(absolute, name)
    assert write_strips(model, tmp_path / "shard.tar", tmp_path / "shard", SMALL).images == 3
    assert written(tmp_path / "shard") == ["shard.tar/__/up.png.png", "shard.tar/in.png-2.png", "shard.tar/in.png.png"]


def test_what_is_broken_is_named_and_the_rest_goes_on(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "source"
    save(source / "good.png")
    (source / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (2000, 10)).save(source / "long.png")
    broken = gif(source / "moves.gif", 9).read_bytes()
    (source / "moves.gif").write_bytes(broken[: len(broken) // 2])
    result = write_strips(model, source, tmp_path / "out", SMALL)
    assert result.images == 4
    assert [name for name, _ in result.failed] == ["bad.jpg", "long.png", "moves.gif"]
    assert "aspect ratio of 2000 x 10" in dict(result.failed)["long.png"]
    assert written(tmp_path / "out") == ["good.png.png"]


def test_a_video_becomes_a_video_with_all_its_frames(model: Model, tmp_path: Path) -> None:
    source = film(tmp_path / "film.mov", 5)
    assert write_strips(model, source, tmp_path / "out", SMALL).failed == ()
    assert written(tmp_path / "out") == ["film.mov.mp4"]
    with (tmp_path / "out" / "film.mov.mp4").open("rb") as file, open_video(file) as clip:
        assert (clip.rate, clip.count) == (RATE, 5)
        frames = list(clip.frames)
    strip = draw_attention(picture(0), attention_maps(model, picture(0), transform=replace(model.transform, size=48, resize="keep")))
    assert frames[0].image.size == tuple(side + side % 2 for side in strip.size)
    assert abs(np.asarray(frames[0].image.crop((0, 0, *strip.size))).astype(float) - strip).mean() < 12
    write_strips(model, source, tmp_path / "film.webp", SMALL)
    animation = open_animation((tmp_path / "film.webp").read_bytes())
    assert animation is not None
    assert [round(float(frame.start) * 12) for frame in animation.frames] == [0, 1, 2, 3, 4]


def test_an_animated_file_becomes_an_animated_webp_or_a_video(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    gif(source / "moves.gif", 4)
    save(source / "still.webp")
    assert write_strips(model, source, tmp_path / "out", SMALL).failed == ()
    assert written(tmp_path / "out") == ["moves.gif.webp", "still.webp.png"]
    animation = open_animation((tmp_path / "out" / "moves.gif.webp").read_bytes())
    assert animation is not None
    assert [float(frame.length) for frame in animation.frames] == [0.12] * 4
    write_strips(model, source / "moves.gif", tmp_path / "moves.mp4", SMALL)
    with (tmp_path / "moves.mp4").open("rb") as file, open_video(file) as clip:
        assert [float(frame.start) for frame in clip.frames] == [0, 0.12, 0.24, 0.36]


def test_the_progress_lines_are_for_terminals(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "source" / "one.png")
    gif(tmp_path / "source" / "moves.gif", 3)
    for terminal in (False, True):
        said = io.StringIO()
        said.isatty = lambda terminal=terminal: terminal  # type: ignore[method-assign, misc]
        monkeypatch.setattr("sys.stderr", said)
        write_strips(model, tmp_path / "source", tmp_path / "out", SMALL)
        assert ("2/2" in said.getvalue() and "img/s" in said.getvalue()) == terminal
        assert ("moves.gif: " in said.getvalue() and "/3 [" in said.getvalue()) == terminal


def test_a_list_may_name_videos(model: Model, tmp_path: Path) -> None:
    film(tmp_path / "film.mp4", 2)
    save(tmp_path / "one.png")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "film.mp4").read_bytes()[:500])
    names = "\n".join(str(tmp_path / name) for name in ("one.png", "film.mp4", "cut.mp4", "gone.mp4"))
    result = write_strips(model, "-", tmp_path / "out", SMALL, stdin=io.BytesIO(names.encode()))
    assert result.images == 4
    assert [(Path(name).name, reason.partition(":")[0]) for name, reason in result.failed] == [
        ("cut.mp4", "broken video"),
        ("gone.mp4", "no such file"),
    ]
    assert [Path(name).name for name in written(tmp_path / "out")] == ["film.mp4.mp4", "one.png.png"]


def test_strips_that_lie_in_the_source_are_no_part_of_it(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "one.png")
    save(tmp_path / "outside" / "two.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert write_strips(model, ".", "out", SMALL).images == 2
        assert written(tmp_path / "out") == ["one.png.png", "outside/two.png.png"]


def test_requests_that_make_no_sense(model: Model, tmp_path: Path) -> None:
    image, folder = save(tmp_path / "folder" / "one.png"), tmp_path / "folder"
    refused: list[tuple[Path, Path, type[IBotError], str]] = [
        (tmp_path / "gone.png", tmp_path / "out", SourceError, "There is no"),
        (folder, tmp_path / "out.png", UsageError, "may hold several images, so --out names a folder, not a file"),
        (folder, folder, UsageError, "--out is the source itself"),
        (image, image, UsageError, "--out is the source itself"),
        (image, tmp_path / "out.gif", UsageError, "pictures become .png, moving ones .mp4 or .webp"),
    ]
    for source, out, error, said in refused:
        with pytest.raises(error, match=re.escape(said)):
            check_request(str(source), out, SMALL)
        with pytest.raises(error, match=re.escape(said)):
            write_strips(model, source, out, SMALL)
    with pytest.raises(UsageError, match="size is 9000"):
        check_request(str(image), tmp_path / "out", AttentionOptions(size=9000))
    with pytest.raises(UsageError, match=r"one.png does not move, so it becomes .png, not out.mp4"):
        write_strips(model, image, tmp_path / "out.mp4", SMALL)
    with pytest.raises(UsageError, match=r"moves.gif moves, so it becomes .mp4 or .webp, not out.png"):
        write_strips(model, gif(tmp_path / "moves.gif", 2), tmp_path / "out.png", SMALL)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/one.png.png cannot be written \("):
        write_strips(model, image, tmp_path / "file", SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "moves.gif"]
