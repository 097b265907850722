"""Models that people share."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ibot_demo import shelf
from ibot_demo.shelf import MOST, Shelf
from ibot_hub.errors import UnknownModelError
from ibot_hub.loading import load
from ibot_hub.model import Model


def test_a_model_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def counted(name: str, *, head: bool | None) -> Model:
        loaded.append(name)
        return load(name, head=head)

    monkeypatch.setattr(shelf, "load", counted)
    models = Shelf()
    with ThreadPoolExecutor(8) as executor:
        answers = set(executor.map(models.get, ["tiny"] * 8))
    assert (len(answers), loaded) == (1, ["tiny"])
    assert models.get("tiny", head=True).head is not None


def test_a_long_download_keeps_nobody_from_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    started, arrived = threading.Event(), threading.Event()

    def slow(name: str, *, head: bool | None) -> Model:
        if name == "slow":
            started.set()
            assert arrived.wait(60)
        return load("tiny", head=head)

    monkeypatch.setattr(shelf, "load", slow)
    models = Shelf()
    with ThreadPoolExecutor(2) as executor:
        waiting = executor.submit(models.get, "slow")
        try:
            assert started.wait(60)
            other = executor.submit(models.get, "tiny").result(60)
            assert not waiting.done()
        finally:
            arrived.set()
        assert models.get("slow") is waiting.result()
    assert models.get("tiny") is other


def test_the_oldest_makes_room_and_a_failure_costs_none(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, files = Shelf(), [str(golden / name) for name in ("vit_micro_checkpoint.pth", "swin_micro_w7_checkpoint.pth")]
    first = models.get("tiny")
    others = [models.get(file) for file in files[: MOST - 1]]
    assert models.get("tiny") is first
    with pytest.raises(UnknownModelError):
        models.get("no such model")
    assert models.get("tiny") is first
    models.get(files[MOST - 1])
    assert models.get("tiny") is first
    assert models.get(files[0]) is not others[0]


def test_the_head_comes_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "load", lambda name, head: load(name, head=bool(head)))
    models = Shelf()
    assert models.get("tiny").head is None
    assert models.get("tiny", head=True).head is not None
    assert models.get("tiny").head is not None
