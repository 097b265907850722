"""What is in the cache is told, and goes when it is told to go; what was recorded at first use stays."""

import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from ibot_hub import catalog, weights
from ibot_hub.catalog import info
from ibot_hub.errors import CacheError, DownloadError, UnknownModelError
from ibot_hub.hub.cache import Cached, clear_cache, list_cache
from ibot_hub.hub.files import fetch
from ibot_hub.hub.places import digests_file, model_folder, repository_folder
from ibot_hub.hub.publish import write_repository
from ibot_hub.hub.record import sha256
from ibot_hub.hub.repositories import fetch_repository
from ibot_hub.loading import load
from ibot_hub.options import PushOptions
from tests.hub_server import HubServer


@pytest.fixture
def original(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The backbone of `vit_s16`, a small network here, in a mirror; a cache that is empty."""
    full, folder = golden / "vit_micro_checkpoint.pth", tmp_path / "mirror" / "vits_16"
    monkeypatch.setattr(catalog, "CATALOG", tuple(replace(entry, arch="ViT-128x2/16", patterns=96) for entry in catalog.CATALOG))
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(folder.parent))
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    folder.mkdir(parents=True)
    shutil.copy(full, folder / "checkpoint.pth")
    torch.save({"state_dict": dict(weights.read(full, "teacher").backbone)}, folder / "checkpoint_teacher.pth")
    return folder / "checkpoint_teacher.pth"


@pytest.fixture
def repository(hub_here: HubServer, golden: Path, tmp_path: Path) -> str:
    """A repository with two commits, both in Hugging Face's cache; the name of the second."""
    folder = tmp_path / "written"
    folder.mkdir()
    write_repository(load(golden / "vit_micro_checkpoint.pth", "student", head=True), "org/micro", folder, None, PushOptions())
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    commits = hub_here.repository("org/micro", files).commits
    fetch_repository("org/micro")
    hub_here.repositories["org/micro"].add(files | {"config.json": files["config.json"] + b"\n"})
    fetch_repository("org/micro")
    return f"hf-hub:org/micro@{commits[-1].oid}"


def test_each_file_of_a_name_is_told(original: Path) -> None:
    assert list_cache() == ()
    backbone = fetch(info("vit_s16"))
    verified = replace(info("vit_s16"), name="known", sha256={"checkpoint.pth": sha256(original.with_name("checkpoint.pth"))})
    with_head = fetch(verified, network="student", head=True)
    known, mine = list_cache()
    assert known == Cached("known", (with_head,), with_head.stat().st_size, "student", True, "verified", known.date, False)
    assert mine == Cached("vit_s16", (backbone,), backbone.stat().st_size, "teacher", False, "first use", mine.date, False)
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(mine.date) < timedelta(minutes=5)


def test_parts_and_files_without_a_record_are_incomplete(original: Path) -> None:
    path = fetch(info("vit_s16"))
    part = path.with_name("checkpoint.pth.partial")
    part.write_bytes(bytes(1000))
    whole, rest = list_cache()
    assert (whole.state, rest.state, rest.files, rest.size, rest.network) == ("first use", "incomplete", (part,), 1000, None)
    path.with_suffix(".json").write_text("{")
    (rest,) = list_cache()
    assert (rest.state, set(rest.files)) == ("incomplete", {part, path, path.with_suffix(".json")})
    assert clear_cache(["vit_s16"]) == {"vit_s16": rest.size}
    assert list_cache() == ()


def test_a_repository_is_told_with_what_its_files_say(repository: str, tmp_path: Path) -> None:
    first, second = sorted(list_cache(), key=lambda cached: cached.name == repository)
    assert (second.name, second.network, second.head, second.state, second.hugging_face) == (repository, "student", True, "first use", True)
    assert all(file.is_relative_to(tmp_path / "hf") for file in second.files)
    assert second.size == sum(file.stat().st_size for file in second.files) == first.size + 1
    folder = second.files[0].parent
    (folder / "ibot.safetensors").resolve().write_bytes(b"damaged")
    assert [(cached.network, cached.head) for cached in list_cache()] == [(None, False)] * 2
    shutil.rmtree(tmp_path / "hf")  # by another tool
    assert list_cache() == ()


def test_what_is_cleared_comes_again_unless_it_changed_upstream(original: Path) -> None:
    size = sum(file.stat().st_size for file in fetch(info("vit_s16")).parent.iterdir())
    assert clear_cache(["vit_s16"]) == {"vit_s16": size}
    assert clear_cache(["vit_s16"]) == {"vit_s16": 0}
    assert [path.name for path in model_folder("vit_s16").iterdir()] == [".lock"]
    fetch(info("vit_s16"))
    torch.save(torch.load(original) | {"epoch": 1}, original)
    assert clear_cache() == {"vit_s16": size}
    with pytest.raises(DownloadError, match="is known from its first use"):
        fetch(info("vit_s16"))
    assert clear_cache(["vit_s16"], forget=True) == {"vit_s16": 0}
    assert fetch(info("vit_s16")).exists()
    clear_cache(forget=True)
    assert not digests_file("vit_s16").parent.exists()


def test_a_download_that_runs_is_waited_for(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetch(info("vit_s16"))
    with FileLock(path.parent / ".lock"):
        other = threading.Thread(target=clear_cache)
        other.start()
        deadline = time.monotonic() + 60
        while "vit_s16 is being downloaded; waiting for the end of it" not in capsys.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert path.exists()
    other.join()
    assert not path.exists()


def test_one_commit_of_a_repository_goes_and_the_other_stays_whole(repository: str, tmp_path: Path) -> None:
    second = next(cached for cached in list_cache() if cached.name == repository)
    records = list(repository_folder("org/micro").rglob("*.json"))
    (config,) = (file.stat().st_size for file in second.files if file.name == "config.json")
    assert clear_cache() == {}  # nothing of ibot-hub's own
    assert clear_cache([repository]) == {repository: config}  # all else belongs to the first as well
    (first,) = list_cache()
    assert load(first.name, head=True).head is not None
    assert list(repository_folder("org/micro").rglob("*.json")) == records
    fetch_repository("org/micro")
    assert {cached.name for cached in list_cache()} == {first.name, repository}
    assert clear_cache(["hf-hub:org/micro@main"])["hf-hub:org/micro@main"] > 0
    assert clear_cache(["hf-hub:org/micro"])["hf-hub:org/micro"] == first.size
    assert not (tmp_path / "hf" / "models--org--micro").exists()
    assert list(repository_folder("org/micro").rglob("*.json")) == records
    assert clear_cache(["hf-hub:org/micro"], forget=True) == {"hf-hub:org/micro": 0}
    assert not list(repository_folder("org/micro").rglob("*.json"))


def test_a_name_of_the_catalogue_may_be_a_repository(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "CATALOG", (replace(info("phikon"), repository="org/micro"),))
    assert clear_cache(["phikon"])["phikon"] > 0
    assert list_cache() == ()


def test_names_that_are_none_and_files_that_cannot_go(original: Path) -> None:
    with pytest.raises(UnknownModelError, match="did you mean vit_s16"):
        clear_cache(["vit_s61"])
    with pytest.raises(UnknownModelError):
        clear_cache(["../mirror"])
    assert clear_cache(["tiny", "hf-hub:org/none"]) == {"tiny": 0, "hf-hub:org/none": 0}
    stubborn = model_folder("vit_s16") / "folder"
    stubborn.mkdir(parents=True)
    with pytest.raises(CacheError, match=rf"The cache .*cache cannot be cleared: .*{stubborn}"):
        clear_cache()
    stubborn.rmdir()
    stubborn.symlink_to("nowhere")
    with pytest.raises(CacheError, match=rf"The cache .*cache cannot be read: .*{stubborn}"):
        list_cache()
