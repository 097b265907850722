"""What a run shows and writes: no step twice, no image twice, no number lost."""

import contextlib
import json
import math
import os
import pty
import re
import resource
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ibot_hub.errors import StoreError
from ibot_training.monitor import Monitor, Skipped

STEPS = {"batch_size": 16, "steps_per_epoch": 4, "total_steps": 12}


def go_on(run: Path, start: int, steps: int, name: str = "lr") -> None:
    """A run that records every step."""
    with Monitor(run, Skipped(run), start_step=start, **STEPS) as monitor:
        for step in range(start + 1, start + steps + 1):
            monitor.advance(0.0)
            monitor.record(step, {"loss": 10.0 + step, name: start + step / 10})


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def events(run: Path, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(run / "tensorboard"))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(tag)]


def test_a_line_says_what_was_recorded_and_how_fast_it_was(tmp_path: Path) -> None:
    skipped = Skipped(tmp_path)
    with Monitor(tmp_path, skipped, start_step=0, **STEPS) as monitor:
        skipped.add("a.jpg", "the file is empty")
        for _ in range(2):
            time.sleep(0.1)
            monitor.advance(0.05)
        monitor.record(2, {"loss": 0.1 + 0.2, "lr": 1e-6})
        first, *_ = lines(tmp_path / "metrics.jsonl")  # it is there at once, whatever becomes of the process
    assert list(first) == ["step", "epoch", "loss", "lr", "images_per_second", "waiting", "skipped"]
    assert (first["step"], first["epoch"], first["loss"], first["lr"], first["skipped"]) == (2, 0.5, 0.1 + 0.2, 1e-6, 1)
    assert 60 < first["images_per_second"] < 160
    assert 0.2 < first["waiting"] < 0.5
    assert events(tmp_path, "images_per_second") == [(2, pytest.approx(first["images_per_second"]))]


def test_an_epoch_is_said_and_its_evaluation_slows_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor(tmp_path, Skipped(tmp_path), start_step=0, **STEPS) as monitor:
        time.sleep(0.2)
        monitor.summarise(4, {"nmi": 0.25, "knn": 31.4159265})
        monitor.advance(0.0)
        monitor.record(5, {"loss": 1.0})
    assert "epoch 1: nmi 0.25, knn 31.42\n" in capsys.readouterr().err
    epoch, step = lines(tmp_path / "metrics.jsonl")
    assert epoch == {"step": 4, "epoch": 1.0, "nmi": 0.25, "knn": 31.4159265}
    assert step["images_per_second"] > 1000
    assert events(tmp_path, "nmi") == [(4, 0.25)]


def test_a_run_that_goes_on_has_no_step_twice(tmp_path: Path) -> None:
    go_on(tmp_path, 0, 7)
    go_on(tmp_path, 3, 4)
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["loss"] for line in lines(tmp_path / "metrics.jsonl")] == [11, 12, 13, 14, 15, 16, 17]
    go_on(tmp_path, 3, 1, "other")
    recorded = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in recorded] == [1, 2, 3, 4]
    assert recorded[-1]["other"] == 3.4
    assert [step for step, _ in events(tmp_path, "other")] == [4]
    assert [step for step, _ in events(tmp_path, "loss")] == [1, 2, 3, 4]
    go_on(tmp_path, 0, 2)  # killed before its first checkpoint
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_half_a_line_of_a_killed_run_goes(tmp_path: Path) -> None:
    go_on(tmp_path, 0, 3)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    for half in (b'{"step": 4, "lo', b'{"step": 4}', b"\0" * 50):
        file.write_bytes(whole + half)
        go_on(tmp_path, 3, 1)
        assert [line["step"] for line in lines(file)] == [1, 2, 3, 4]
        assert file.read_bytes().startswith(whole)


@pytest.mark.parametrize("damage", [b"not JSON\n", b"{}\n", b"[]\n", b"\xff\n"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    go_on(tmp_path, 0, 1)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        size = file.tell()
        file.write(damage)
    with pytest.raises(StoreError, match=rf"metrics\.jsonl is damaged after {size} bytes; remove it"):
        go_on(tmp_path, 1, 1)


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with Monitor(tmp_path, Skipped(tmp_path), start_step=0, **STEPS) as monitor:
        monitor.record(1, {"loss": 1.0, "norm": math.inf, "scale": math.nan})
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert (line["norm"], line["scale"]) == (None, None)
    assert events(tmp_path, "norm") == [(1, math.inf)]


def test_without_tensorboard_it_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    go_on(tmp_path, 0, 3)
    with Monitor(tmp_path, Skipped(tmp_path), start_step=3, **STEPS) as monitor:
        monitor.picture(3, Image.new("RGB", (4, 4)))
    said = capsys.readouterr().err
    assert said.count("TensorBoard is not installed, so nothing is written for it; metrics.jsonl holds the same numbers") == 2
    assert "pip install 'ibot-hub[train]'" in said
    assert not (tmp_path / "tensorboard").exists()
    assert len(lines(tmp_path / "metrics.jsonl")) == 3


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go_on(tmp_path, 0, 12)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # the first and the last; those between came too soon
    assert re.fullmatch(r"step 1/12: loss 11\.0000, [\d.]+ img/s, \d\d:\d\d left, waiting for images 0%", said[0])
    assert re.fullmatch(r"step 12/12: loss 22\.0000, [\d.]+ img/s, 00:00 left, waiting for images 0%", said[1])


def test_the_time_left_is_that_of_the_steps_to_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Skipped(tmp_path)
    skipped.add("a.jpg", "broken")
    with Monitor(tmp_path, skipped, batch_size=4, steps_per_epoch=4, total_steps=10_000, start_step=2500) as monitor:
        time.sleep(0.5)
        monitor.advance(0.5)
        monitor.record(2501, {"loss": 1.0})
    left = re.search(r"img/s, 1:(\d\d):\d\d left, waiting for images \d+%, skipped images: 1", capsys.readouterr().err)
    assert left  # 7499 steps of half a second are 1:02:30
    assert 2 <= int(left[1]) < 20


def test_the_progress_line_on_a_terminal(tmp_path: Path) -> None:
    """A real process whose standard error is a terminal."""
    script = """
import sys, time
from pathlib import Path
from ibot_training.monitor import Monitor, Skipped
run = Path(sys.argv[1])
with Monitor(run, Skipped(run), batch_size=100, steps_per_epoch=4, total_steps=12, start_step=6) as monitor:
    for step in range(7, 13):
        time.sleep(0.15)
        monitor.advance(0.1)
        monitor.record(step, {"loss": step / 10})
        if step == 8:
            monitor.summarise(step, {"nmi": 0.5})
"""
    main_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 160))
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=terminal)
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # how Linux says that the terminal is closed
        while block := os.read(main_end, 4096):
            said += block
    os.close(main_end)
    assert process.wait() == 0
    assert re.search(rb"epoch 3/3:  \d+%.*k/1\.20k \[.*<.*img/s, loss 1\.\d000, waiting for images \d+%\]", said)
    assert re.search(rb"\repoch 2: nmi 0\.5\r\n", said)
    assert b"step 12/12" not in said


def test_a_skipped_image_is_named_once(tmp_path: Path) -> None:
    skipped = Skipped(tmp_path)
    assert len(skipped) == 0
    assert not (tmp_path / "skipped.jsonl").exists()
    skipped.add("a.jpg", "the file is empty")
    skipped.add("é\udc80.jpg", "no such file")
    skipped.add("a.jpg", "another reason")
    other = Skipped(tmp_path)  # another process, or the run when it goes on
    other.add("a.jpg", "the file is empty")
    other.add("b.jpg", "broken PNG: x")
    skipped.add("b.jpg", "broken PNG: x")
    assert len(skipped) == len(other) == 3
    assert lines(tmp_path / "skipped.jsonl") == [
        {"name": "a.jpg", "reason": "the file is empty"},
        {"name": "é\udc80.jpg", "reason": "no such file"},
        {"name": "b.jpg", "reason": "broken PNG: x"},
    ]


def test_half_a_name_of_a_killed_run_goes(tmp_path: Path) -> None:
    Skipped(tmp_path).add("a.jpg", "x")
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"name": "b.j')
    skipped = Skipped(tmp_path)
    assert len(skipped) == 1
    skipped.add("b.jpg", "x")
    assert [line["name"] for line in lines(tmp_path / "skipped.jsonl")] == ["a.jpg", "b.jpg"]


def test_threads_and_processes_skip_at_the_same_time(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from ibot_training.monitor import Skipped; s = Skipped(Path(sys.argv[1]))\n"
    script += "for n in range(100): s.add(f'{n}.jpg', 'x')"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    skipped = Skipped(tmp_path)
    while process.poll() is None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: skipped.add(f"{n % 150}.jpg", "x"), range(600)))
    assert process.returncode == 0
    names = [line["name"] for line in lines(tmp_path / "skipped.jsonl")]
    assert sorted(names) == sorted(f"{n}.jpg" for n in range(150))
    assert len(skipped) == 150


def test_pictures_are_whole_or_not_there(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    with Monitor(tmp_path, Skipped(tmp_path), start_step=0, **STEPS) as monitor:
        path = monitor.picture(4, image)
        monitor.picture(4, image)
    assert path == tmp_path / "pictures" / "step-00000004.png"
    with Image.open(path) as written:
        assert np.array_equal(np.asarray(written), np.asarray(image))
    assert list(path.parent.iterdir()) == [path]
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert reader.Images("picture")[0].step == 4


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 64 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Monitor(tmp_path, Skipped(tmp_path), start_step=0, **STEPS) as monitor:
        with full_disk(), pytest.raises(StoreError, match=r"metrics\.jsonl cannot be written \(File too large\); put that right"):
            monitor.record(1, {"loss": 1.0})
        with full_disk(), pytest.raises(StoreError, match=r"step-00000001\.png cannot be written"):
            monitor.picture(1, Image.effect_noise((64, 64), 50))
        with full_disk(), pytest.raises(StoreError, match=r"skipped\.jsonl cannot be written"):
            Skipped(tmp_path).add("a" * 100, "x")
    assert not list(tmp_path.glob("**/*.png"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"metrics\.jsonl cannot be written \(Is a directory\)"):
        go_on(tmp_path, 0, 1)
