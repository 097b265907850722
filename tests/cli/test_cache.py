"""`ibot cache`: a table, JSON, and how much was freed; tests/hub/test_hub_cache.py has the rest."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ibot_hub import catalog
from ibot_hub.hub.repositories import fetch_repository
from tests.hub_server import HubServer

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cache(hub_here: HubServer, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a mirror that has `vit_s16` as a small network, and a hub."""
    monkeypatch.setattr(catalog, "CATALOG", tuple(replace(entry, arch="ViT-128x2/16", patterns=96) for entry in catalog.CATALOG))
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "vits_16").mkdir(parents=True)
    shutil.copy(checkpoint, tmp_path / "mirror" / "vits_16" / "checkpoint.pth")
    hub_here.repository("org/micro", {"config.json": b"{}", "model.safetensors": bytes(1_000_000)})
    return tmp_path / "cache"


def test_the_cache_is_listed_and_cleared(ibot: Ibot, cache: Path) -> None:
    assert ibot("cache", "list") == (0, "", f"0 MB in {cache}\n")
    assert ibot("cache", "list", "--json") == (0, "[]\n", "")
    assert ibot("download", "vit_s16", "--head")[0] == 0
    folder = fetch_repository("org/micro")
    code, stdout, stderr = ibot("cache", "list")
    header, first, second = (line.split() for line in stdout.splitlines())
    assert (code, header) == (0, ["NAME", "NETWORK", "HEAD", "DIGEST", "SIZE", "DATE"])
    assert first[:5] == ["vit_s16", "teacher", "yes", "first", "use"]
    assert second[:7] == [f"hf-hub:org/micro@{folder.name}", "-", "-", "first", "use", "1", "MB"]
    assert stderr.endswith(f"in {cache}; 1 MB of repositories in Hugging Face's own cache\n")
    listed = json.loads(ibot("cache", "list", "--json")[1])
    assert [entry["hugging_face"] for entry in listed] == [False, True]
    assert listed[0]["files"] == [str(cache / "vit_s16" / "teacher-head.safetensors")]
    code, stdout, stderr = ibot("cache", "clear", "--all")
    assert (code, stdout.split(": ")[0], "MB freed" in stdout) == (0, "vit_s16", True)
    assert stderr == f"hf-hub:org/micro@{folder.name} stays in Hugging Face's cache; name it to remove it\n"
    assert ibot("cache", "clear", "hf-hub:org/micro", "vit_s16", "--forget-digests") == (
        0, "hf-hub:org/micro: 1 MB freed\nvit_s16: nothing was there\n", "",
    )  # fmt: skip
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_mistakes(ibot: Ibot, cache: Path) -> None:
    for words in ((), ("vit_s16", "--all")):
        code, stdout, stderr = ibot("cache", "clear", *words)
        assert (code, stdout) == (2, "")
        assert stderr == "ibot: Say which models, or --all; `ibot cache list` shows what is there.\n"
    code, _, stderr = ibot("cache", "clear", "vit_s61")
    assert (code, "did you mean vit_s16" in stderr) == (1, True)
