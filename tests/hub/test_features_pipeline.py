"""Batches come in order, decoded ahead but not too far, with what failed in its place."""

import io
import threading
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from PIL import Image

from ibot_hub.features.pipeline import batches
from ibot_hub.images import ImageTransform
from ibot_hub.listing import Entry

JPEG = io.BytesIO()
Image.new("RGB", (40, 30), "red").save(JPEG, "JPEG")


@dataclass(frozen=True)
class Slow(Entry):
    """An image whose reading takes a time of its own; the reads are counted."""

    seconds: float = 0.0
    content: bytes = field(default=JPEG.getvalue(), repr=False)
    reads: ClassVar[list[str]] = []

    def read(self) -> bytes:
        time.sleep(self.seconds)
        Slow.reads.append(self.name)
        return self.content


@pytest.fixture(autouse=True)
def _no_reads() -> None:
    Slow.reads.clear()


def entries(count: int, **facts: Any) -> list[Entry]:
    return [Slow(name=str(index), location="", **facts) for index in range(count)]


@pytest.mark.parametrize("overlap", [True, False])
def test_order_and_failures_are_kept(overlap: bool) -> None:
    images: list[Entry] = [Slow(name=str(index), location="", seconds=0.02 * (5 - index)) for index in range(5)]
    images[2] = Slow(name="broken\n", location="", content=b"no image")
    work = iter([(0, 10, images[:3]), (1, 13, images[3:])])
    first, second = batches(work, ImageTransform(size=32), workers=4, ahead=3, overlap=overlap)
    assert [image.row for image in first.images] == [10, 11, 12]
    assert (first.shard, second.shard) == (0, 1)
    assert [image.path for image in second.images] == ["3", "4"]
    assert first.images[0].pixels is not None
    assert first.images[0].pixels.shape == (3, 32, 32)
    assert (first.images[0].width, first.images[0].height) == (40, 30)
    assert (first.images[2].pixels, first.images[2].failure) == (None, "no image that can be read, whatever its name says")
    assert first.waited > 0.05


@pytest.mark.parametrize(("overlap", "reads"), [(True, [4, 5]), (False, [3, 3])])
def test_no_more_is_read_than_asked_ahead(overlap: bool, reads: list[int]) -> None:
    """With overlap one batch is read for each that is taken; without, none until all are used up."""
    work = ((shard, shard, entries(1)) for shard in range(100))
    stream = batches(work, ImageTransform(), workers=2, ahead=3, overlap=overlap)
    found = []
    for _ in range(2):
        next(stream)
        time.sleep(0.2)
        found.append(len(Slow.reads))
    assert found == reads
    next(stream)
    next(stream)
    time.sleep(0.2)
    assert len(Slow.reads) >= 6
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_bug_is_not_taken_for_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "read", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(batches(iter([(0, 0, entries(1))]), ImageTransform(), workers=1, ahead=1, overlap=True))
