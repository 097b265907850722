"""The shape of the house: tests mirror the sources, and imports point down."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"ibot_hub": "hub", "cli/ibot_cli": "cli", "training/ibot_training": "training", "demo/ibot_demo": "demo"}
# names only: nothing in them can go wrong that the tests of others would not show
WITHOUT_BEHAVIOUR = {"__init__", "errors", "tokens"}


def test_every_source_has_its_tests() -> None:
    missing = [
        f"tests/{folder}/test_{path.stem}.py"
        for package, folder in PACKAGES.items()
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in WITHOUT_BEHAVIOUR and not (ROOT / "tests" / folder / f"test_{path.stem}.py").exists()
    ]
    assert missing == []


def test_every_test_has_its_source() -> None:
    sources = {folder: {path.stem for path in (ROOT / package).rglob("*.py")} for package, folder in PACKAGES.items()}
    orphans = [
        path.name for folder, stems in sources.items() for path in (ROOT / "tests" / folder).glob("test_*.py") if path.stem[5:] not in stems
    ]
    assert orphans == []
