"""Names become checked files of the cache, over real HTTP on loopback, with real processes."""

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot_hub import weights
from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import DownloadError, WeightsError
from ibot_hub.hub import download, files
from ibot_hub.hub.record import Record, read_record, table_sha256

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/vit_micro_checkpoint.pth"
FULL = GOLDEN.read_bytes()
FULL_PATH, BACKBONE_PATH = "/micro/checkpoint.pth", "/micro/checkpoint_teacher.pth"


def _digest(body):
    return hashlib.sha256(body).hexdigest()


@pytest.fixture(scope="module")
def backbone():
    """The bytes of a backbone-only file, as the official extractor writes it."""
    state = weights.read(GOLDEN, "teacher", False).backbone
    file = io.BytesIO()
    torch.save({"state_dict": dict(state)}, file)
    return file.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "IBOT_HUB_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES", (0.0,))
    return tmp_path / "cache"


@pytest.fixture
def entry(server, backbone, cache):
    """A checkpoint with both files on the loopback server."""
    server.serve(FULL_PATH, FULL)
    server.serve(BACKBONE_PATH, backbone)
    return Checkpoint(
        name="micro", arch="ViT-128x2/16", network="teacher", data="", host=server.url, folder="micro",
        backbone_file="checkpoint_teacher.pth",
        full_file="checkpoint.pth", sizes={"checkpoint_teacher.pth": len(backbone), "checkpoint.pth": len(FULL)},
        notes="Ask the authors.",
    )  # fmt: skip


def _assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_backbone_is_fetched_once_and_converted(entry, server, cache, backbone, capsys):
    path = files.fetch(entry)
    held = weights.read(path)
    _assert_equal(held.backbone, weights.read(GOLDEN, "teacher").backbone)
    assert held.head is None
    assert held.origin.network == "teacher"
    assert capsys.readouterr().err == f"micro: downloading the backbone: {download.megabytes(len(backbone))} from {entry.url()}\n"
    assert files.fetch(entry) == files.fetch(entry, network="teacher", head=False) == path
    assert [request.path for request in server.requests] == [BACKBONE_PATH]
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "teacher.json", "teacher.safetensors"]
    assert read_record(path) == Record(
        url=entry.url(), original_sha256=_digest(backbone), verified=False, sha256=_digest(path.read_bytes()), size=path.stat().st_size,
        modified=path.stat().st_mtime_ns, table_sha256=table_sha256(path),
    )  # fmt: skip


def test_the_head_is_fetched_only_when_asked_for_and_then_serves_all(entry, server, backbone, capsys):
    files.fetch(entry)
    capsys.readouterr()
    path = files.fetch(entry, head=True)
    assert weights.read(path).head is not None
    assert capsys.readouterr().err == (
        f"micro: downloading the full checkpoint, because only it holds the head: 4.52 MB from {entry.url('checkpoint.pth')} "
        f"(the backbone alone: {download.megabytes(len(backbone))})\n"
    )
    server.requests.clear()
    assert files.fetch(entry) == files.fetch(entry, head=False) == files.fetch(entry, head=True) == path
    assert server.requests == []


def test_the_student_comes_out_of_the_full_checkpoint(entry, capsys):
    path = files.fetch(entry, network="student", head=False)
    held = weights.read(path)
    _assert_equal(held.backbone, weights.read(GOLDEN, "student").backbone)
    assert (held.head, held.origin.network, path.name) == (None, "student", "student.safetensors")
    assert "because only it holds this network" in capsys.readouterr().err


def test_an_entry_with_a_full_checkpoint_alone_keeps_the_head_unless_told_not_to(entry, capsys):
    entry = replace(entry, backbone_file=None)
    assert weights.read(files.fetch(entry, head=False)).head is None
    assert "the full checkpoint, the only file there is: " in capsys.readouterr().err
    assert weights.read(files.fetch(replace(entry, name="other"))).head is not None


def test_the_catalogue_names_the_network_where_a_file_does_not(entry, server, backbone):
    state = torch.load(io.BytesIO(backbone), weights_only=True)["state_dict"]
    flat = io.BytesIO()
    torch.save(state, flat)
    server.serve(BACKBONE_PATH, flat.getvalue())
    assert weights.read(files.fetch(replace(entry, network="student"))).origin.network == "student"


def test_what_no_published_file_holds_is_an_error(entry):
    with pytest.raises(DownloadError, match="No file published for micro holds the student with its head"):
        files.fetch(replace(entry, full_file=None), network="student", head=True)


def test_a_known_digest_makes_a_file_verified(entry, backbone):
    path = files.fetch(replace(entry, sha256={"checkpoint_teacher.pth": _digest(backbone)}))
    assert read_record(path).verified


def _never(*_):
    raise AssertionError("the file was opened")


def test_wrong_bytes_against_a_known_digest_are_never_opened(entry, server, cache, backbone, monkeypatch):
    entry = replace(entry, sha256={"checkpoint_teacher.pth": _digest(backbone)})
    wrong = backbone[:-1] + b"!"
    server.serve(BACKBONE_PATH, wrong)
    read = weights.read
    monkeypatch.setattr(weights, "read", _never)
    with pytest.raises(DownloadError, match=f"{_digest(wrong)}.*{_digest(backbone)}.*the catalogue"):
        files.fetch(entry)
    monkeypatch.setattr(weights, "read", read)
    assert [file.name for file in (cache / "micro").iterdir()] == [".lock"]
    server.serve(BACKBONE_PATH, backbone)
    assert files.fetch(entry).exists()


def test_wrong_bytes_against_the_first_use_are_never_opened(entry, server, cache, backbone, monkeypatch):
    path = files.fetch(entry)
    path.unlink()
    wrong = backbone[:-1] + b"!"
    server.serve(BACKBONE_PATH, wrong)
    read = weights.read
    monkeypatch.setattr(weights, "read", _never)
    with pytest.raises(DownloadError, match=f"{_digest(wrong)}.*{_digest(backbone)}.*its first use"):
        files.fetch(entry)
    monkeypatch.setattr(weights, "read", read)
    server.serve(BACKBONE_PATH, backbone)
    assert files.fetch(entry) == path
    files.fetch(entry, head=True)  # another file is remembered beside the first
    assert json.loads((cache / "digests/micro.json").read_text()) == {
        "checkpoint_teacher.pth": _digest(backbone),
        "checkpoint.pth": _digest(FULL),
    }


def test_what_is_no_checkpoint_leaves_nothing_behind(entry, server, cache, backbone):
    server.serve(BACKBONE_PATH, b"<html>Sign in to the hotel's network</html>")
    with pytest.raises(WeightsError):
        files.fetch(entry)
    assert [str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file()] == ["micro/.lock"]
    server.serve(BACKBONE_PATH, backbone)
    assert files.fetch(entry).exists()


def test_a_file_that_is_another_model_is_neither_kept_nor_remembered(entry, cache):
    with pytest.raises(WeightsError, match=r"is not micro: it holds a ViT-128x2/16 .* should be ViT-S/16"):
        files.fetch(replace(entry, arch="ViT-S/16"))
    assert [str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file()] == ["micro/.lock"]
    assert files.fetch(entry).exists()


def _grow(path):
    path.write_bytes(path.read_bytes() + b"!")


def _change_a_value(path):
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _rename_a_tensor(path):
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"backbone.cls_token", b"backbone.cls_tokem", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _break_the_length(path):
    before = path.stat()
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "named"),
    [(_grow, "bytes, not"), (_change_a_value, "was written to"), (_rename_a_tensor, "table"), (_break_the_length, "table")],
)
def test_a_changed_file_of_the_cache_is_refused_until_it_is_removed(entry, server, change, named):
    path = files.fetch(entry)
    change(path)
    with pytest.raises(WeightsError, match=f"was changed since.*{named}.*remove it"):
        files.fetch(entry)
    path.unlink()
    assert files.fetch(entry) == path


def test_a_file_without_its_record_is_fetched_anew_and_a_damaged_record_is_named(entry, server):
    path = files.fetch(entry)
    record = path.with_suffix(".json")
    record.unlink()
    assert files.fetch(entry) == path
    assert len(server.gets(BACKBONE_PATH)) == 2
    record.write_text("{")
    with pytest.raises(WeightsError, match=r"teacher\.json is damaged; remove it"):
        files.fetch(entry)


def test_a_file_that_is_not_of_the_cache_has_no_record():
    assert read_record(GOLDEN) is None


@pytest.mark.parametrize(("name", "value"), [("HF_HUB_OFFLINE", "1"), ("HF_HUB_OFFLINE", "YES"), ("TRANSFORMERS_OFFLINE", "true")])
def test_offline_opens_no_connection_and_uses_what_is_there(entry, server, cache, monkeypatch, name, value):
    path = files.fetch(entry)
    server.requests.clear()
    monkeypatch.setenv(name, value)
    assert files.fetch(entry) == path
    with pytest.raises(DownloadError, match=f"not in the cache {cache} and HF_HUB_OFFLINE is set; unset it once"):
        files.fetch(entry, head=True)
    assert server.requests == []


def test_a_mirror_takes_the_place_of_the_host(entry, server, monkeypatch):
    monkeypatch.setenv("IBOT_HUB_MIRROR", server.url + "/")
    path = files.fetch(replace(entry, host="http://127.0.0.1:1"))
    assert read_record(path).url == server.url + BACKBONE_PATH


def test_a_folder_as_mirror_is_read_where_it_lies_even_offline(entry, server, cache, tmp_path, backbone, monkeypatch):
    file = tmp_path / "mirror/micro/checkpoint_teacher.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(backbone)
    before = file.stat()
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = files.fetch(entry)
    assert weights.read(path).origin.network == "teacher"
    assert read_record(path).url == str(file)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert not list(cache.rglob("*.pth*"))
    with pytest.raises(DownloadError, match=r"checkpoint\.pth does not exist; put checkpoint\.pth there"):
        files.fetch(entry, head=True)
    file.write_bytes(backbone[:-1] + b"!")
    path.unlink()
    with pytest.raises(DownloadError, match="was not opened"):
        files.fetch(entry)
    assert file.exists()
    assert server.requests == []


def test_an_entry_to_be_had_by_hand_says_how(entry, server, monkeypatch):
    entry = replace(entry, host=None, backbone_file=None)
    with pytest.raises(DownloadError, match=r"Ask the authors.*ibot_hub\.load.*micro/checkpoint\.pth in a folder that IBOT_HUB_MIRROR"):
        files.fetch(entry)
    monkeypatch.setenv("IBOT_HUB_MIRROR", server.url)
    assert weights.read(files.fetch(entry)).head is not None


def test_a_cache_that_is_no_folder_is_an_error_of_one_sentence(entry, cache):
    cache.write_text("")
    with pytest.raises(DownloadError, match=r"micro cannot be put into the cache.*IBOT_HUB_CACHE"):
        files.fetch(entry)


@pytest.mark.parametrize("mirrored", [False, True])  # a disk that fills while downloading, and while converting
def test_a_full_disk_is_an_error_of_one_sentence_and_no_half_file_stays(entry, cache, monkeypatch, mirrored):
    if mirrored:
        (cache.parent / "micro").mkdir()
        (cache.parent / "micro/checkpoint.pth").write_bytes(FULL)
        monkeypatch.setenv("IBOT_HUB_MIRROR", str(cache.parent))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
    try:
        with pytest.raises(DownloadError, match=r"micro cannot be put into the cache: .*make room"):
            files.fetch(entry, head=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(cache.rglob("*safetensors*"))
    assert files.fetch(entry, head=True).exists()


SCRIPT = """
import json, sys
from ibot_hub.hub import files
from ibot_hub.catalog import Checkpoint
entry = Checkpoint(**json.loads(sys.argv[1]))
print("ready", flush=True)
print(files.fetch(entry))
"""


def _start(entry):
    """Another process that fetches `entry`; it says "ready" before it does."""
    facts = {name: getattr(entry, name) for name in ("name", "arch", "network", "data", "host", "folder", "backbone_file", "full_file")}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(facts)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_download_once(entry, server):
    gate = server.answers[BACKBONE_PATH].gate = threading.Event()
    both = [_start(entry), _start(entry)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    time.sleep(0.5)  # one is in its download by now; the other would be in its own
    gate.set()
    answers = [process.communicate(timeout=60) for process in both]
    assert [answer[0] for answer in answers] == [f"{files.fetch(entry)}\n"] * 2
    assert sorted(bool(answer[1]) for answer in answers) == [False, True]  # one of them announced a download
    assert len(server.gets(BACKBONE_PATH)) == 1


def test_a_process_killed_in_mid_download_is_gone_on_from(entry, server, cache):
    entry = replace(entry, backbone_file=None)
    server.serve(FULL_PATH, FULL, stall=1 << 20, times=1)
    process = _start(entry)
    partial, deadline = cache / "micro/checkpoint.pth.partial", time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size == 1 << 20):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    _assert_equal(weights.read(files.fetch(entry)).backbone, weights.read(GOLDEN).backbone)
    assert [request.range for request in server.gets(FULL_PATH)] == [None, f"bytes={1 << 20}-"]
    assert not partial.exists()
