"""Versions: what is written down is what computes."""

import platform
from importlib.metadata import version

from ibot_hub.versions import versions


def test_versions_are_those_installed() -> None:
    assert versions() == {name: version(name) for name in ("ibot-hub", "timm", "pillow")} | {
        "torch": version("torch").partition("+")[0] + versions()["torch"][len(version("torch").partition("+")[0]) :],
        "python": platform.python_version(),
    }
