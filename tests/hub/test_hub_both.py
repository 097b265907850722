"""One download of a full checkpoint brings both networks and the centres, over real HTTP on loopback."""

import io
from pathlib import Path

import pytest
import torch

from ibot_hub import weights
from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import DownloadError, WeightsError
from ibot_hub.formats.full import read_centres
from ibot_hub.hub import download, files
from ibot_hub.hub.both import fetch_both
from ibot_hub.hub.cache import list_cache

GOLDEN = Path(__file__).parents[2] / "tests/golden/vit_micro_checkpoint.pth"
PLACE = "/micro/checkpoint.pth"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "IBOT_HUB_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES", (0.0,))
    return tmp_path / "cache"


@pytest.fixture
def entry(server, cache):
    server.serve(PLACE, GOLDEN.read_bytes())
    return Checkpoint(
        name="micro", arch="ViT-128x2/16", network="teacher", data="", patterns=96, host=server.url, folder="micro",
        full_file="checkpoint.pth", notes="Ask the authors.",
    )  # fmt: skip


def test_it_is_downloaded_once_and_taken_apart(entry, server, cache, monkeypatch, capsys):
    both = fetch_both(entry)
    for network, path in (("student", both.student), ("teacher", both.teacher)):
        ours, theirs = weights.read(path), weights.read(GOLDEN, network)
        assert ours.origin.network == network
        assert all(ours.backbone[name].equal(tensor) for name, tensor in theirs.backbone.items())
        assert all(ours.head[name].equal(tensor) for name, tensor in theirs.head.items())
    assert all(ours.equal(theirs) for ours, theirs in zip(both.read_centres(), read_centres(GOLDEN), strict=True))
    assert capsys.readouterr().err.count("downloading") == 1
    assert not list(cache.rglob("*.pth*"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_both(entry) == both
    assert files.fetch(entry, network="student", head=True) == both.student
    assert len(server.gets(PLACE)) == 1
    assert {(cached.files[0].name, cached.network, cached.head) for cached in list_cache()} == {
        ("centres.safetensors", None, False), ("student-head.safetensors", "student", True), ("teacher-head.safetensors", "teacher", True),
    }  # fmt: skip


def test_a_checkpoint_without_centres_is_not_fetched_again_for_them(entry, server):
    full = torch.load(GOLDEN, weights_only=False)
    file = io.BytesIO()
    torch.save({"student": full["student"], "teacher": full["teacher"]}, file)
    server.serve(PLACE, file.getvalue())
    assert [fetch_both(entry).read_centres() for _ in range(2)] == [None, None]
    assert len(server.gets(PLACE)) == 1


def test_what_is_not_as_it_should_be_is_told(entry, server, cache, monkeypatch):
    both = fetch_both(entry)
    both.centres.write_bytes(both.centres.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"centres\.safetensors was changed since it came into the cache.*remove it"):
        fetch_both(entry)
    both.centres.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match=f"micro is not in the cache {cache} and HF_HUB_OFFLINE is set"):
        fetch_both(entry)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    full = torch.load(GOLDEN, weights_only=False)
    file = io.BytesIO()
    torch.save({"teacher": full["teacher"]}, file)
    server.serve(PLACE, file.getvalue())
    with pytest.raises(DownloadError, match="is known from its first use"):
        fetch_both(entry)
    (cache / "digests" / "micro.json").unlink()
    both.student.unlink()
    with pytest.raises(WeightsError, match="holds the teacher, not the student"):
        fetch_both(entry)
    assert not list(cache.rglob("*.pth*"))
