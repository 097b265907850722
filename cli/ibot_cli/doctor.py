"""`ibot doctor`: what this machine has, what is fast on it, and what is missing."""

import platform
import sys
from importlib import metadata

import ibot_hub

DISTRIBUTION = "ibot-hub"


def doctor() -> None:
    """Show what this machine has and what is fast on it.

    Versions, devices, precisions, the cache, and what each extra still needs.
    """
    from ibot_hub.devices import choose_devices, choose_dtype, measure_products
    from ibot_hub.hub.places import cache_folder

    _show(DISTRIBUTION, ibot_hub.__version__)
    _show("Python", f"{platform.python_version()} ({sys.executable})")
    _show_packages()
    for device in dict.fromkeys([*choose_devices("auto"), *choose_devices("cpu")]):
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in measure_products(device).items())
        automatic = str(choose_dtype("auto", device)).removeprefix("torch.")
        _show(str(device), f"GFLOP/s of matrix products: {rates}; --dtype auto is {automatic}")
    folder = cache_folder()
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    _show("cache", f"{folder}: {sum(file.stat().st_size for file in files) / 1e6:,.0f} MB in {len(files)} files")


def _show_packages() -> None:
    """Each requirement of the package and its version here; for an extra, what it still needs."""
    from packaging.requirements import Requirement

    try:
        own = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        _show("packages", f"{DISTRIBUTION} is not installed here, only found on the path: its requirements cannot be told")
        return
    requirements = [Requirement(text) for text in own.get_all("Requires-Dist") or []]
    for requirement in requirements:
        if requirement.marker is None:
            _show(requirement.name, _version(requirement.name) or f"missing: pip install '{requirement}'")
    for extra in own.get_all("Provides-Extra") or []:
        wanted = [r.name for r in requirements if r.marker and r.marker.evaluate({"extra": extra})]
        missing = [name for name in wanted if _version(name) is None]
        said = f"missing {', '.join(missing)}: pip install '{DISTRIBUTION}[{extra}]'" if missing else "installed"
        _show(f"extra {extra}", said)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _show(name: str, value: str) -> None:
    print(f"{name:<20} {value}")
