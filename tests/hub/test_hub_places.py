"""The cache is where the environment says, and each thing has its place in it."""

from pathlib import Path

import platformdirs
import pytest

from ibot_hub.hub.places import cache_folder, digests_file, digests_folder, model_folder, repositories_folder, repository_folder


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBOT_HUB_CACHE", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    assert {place("a").relative_to(cache_folder()).as_posix() for place in (model_folder, digests_file, repository_folder)} == {
        "a", "digests/a.json", "repositories/a",
    }  # fmt: skip
    assert (digests_folder(), repositories_folder()) == (digests_file("a").parent, repository_folder("a").parent)
    monkeypatch.delenv("IBOT_HUB_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("ibot-hub")
