"""Where the cache is, and where in it each thing lies."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where converted checkpoints are kept: IBOT_HUB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("IBOT_HUB_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("ibot-hub")


def model_folder(name: str) -> Path:
    """The converted files of a name of the catalogue, each beside its record."""
    return cache_folder() / name


def digests_file(name: str) -> Path:
    """What the originals of that model had at first use; not beside the weights, for it outlives them."""
    return cache_folder() / "digests" / f"{name}.json"


def repository_folder(repo_id: str) -> Path:
    """The records, commit by commit, of a repository's files, whose own place is Hugging Face's cache."""
    return cache_folder() / "repositories" / repo_id
