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


def digests_folder() -> Path:
    """What originals had at first use, a file for each model; not beside the weights, for it outlives them."""
    return cache_folder() / "digests"


def digests_file(name: str) -> Path:
    """What the originals of that model had at first use."""
    return digests_folder() / f"{name}.json"


def repositories_folder() -> Path:
    """The records of the files of repositories, whose own place is Hugging Face's cache."""
    return cache_folder() / "repositories"


def repository_folder(repo_id: str) -> Path:
    """The records of that repository, a folder for each commit."""
    return repositories_folder() / repo_id
