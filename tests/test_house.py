"""The shape of the house: tests mirror the sources, and imports point down."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"ibot_hub": "hub", "cli/ibot_cli": "cli", "training/ibot_training": "training", "demo/ibot_demo": "demo"}
# names only: nothing in them can go wrong that the tests of others would not show
WITHOUT_BEHAVIOUR = {"__init__", "errors", "tokens"}


def sources(package: str) -> set[str]:
    """What tests are named after: `head` for head.py, `draw_matches` for draw/matches.py."""
    folder = ROOT / package
    return {"_".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py") if path.stem not in WITHOUT_BEHAVIOUR}


def mirrored(folder: str) -> set[str]:
    return {path.stem.removeprefix("test_") for path in (ROOT / "tests" / folder).glob("test_*.py")}


def test_every_source_has_its_tests() -> None:
    assert {folder: sources(package) - mirrored(folder) for package, folder in PACKAGES.items()} == {
        folder: set() for folder in PACKAGES.values()
    }


def test_every_test_has_its_source() -> None:
    assert {folder: mirrored(folder) - sources(package) for package, folder in PACKAGES.items()} == {
        folder: set() for folder in PACKAGES.values()
    }
