"""Panels over a collection, with the Python and the commands that make the same pictures."""

import contextlib
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ibot_cli.main import app
from ibot_demo import own_panels
from ibot_demo.panels import Photo, Shown
from ibot_demo.workspace import PICTURES
from ibot_hub.errors import UsageError
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.patterns.atlas import PatternAtlas, embedded_atlas
from ibot_hub.patterns.finding import find_patterns

NAMES = ("cat_chelsea.jpg", "two_dogs.jpg", "dog_chicky.jpg")


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    """A workspace, as `ibot_demo.workspace.fill` makes one."""
    (tmp_path / "work" / PICTURES).mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "work" / PICTURES / name).write_bytes((photos / name).read_bytes())
    return tmp_path / "work"


@pytest.fixture
def photo(photos: Path, tmp_path: Path) -> Photo:
    """The question, and beside it the pictures, where a person has them."""
    (tmp_path / "dog_chicky.jpg").write_bytes((photos / "dog_chicky.jpg").read_bytes())
    (tmp_path / PICTURES).mkdir()
    for name in NAMES:
        (tmp_path / PICTURES / name).write_bytes((photos / name).read_bytes())
    return Photo("dog_chicky.jpg", decode(tmp_path / "dog_chicky.jpg"))


@pytest.mark.parametrize(
    ("panel", "out"),
    [
        (lambda model, photo, folder: own_panels.composition(model, photo, own_panels.of_pictures(model, folder)), "composition.png"),
        (
            lambda model, photo, folder: own_panels.pattern(model, photo, own_panels.of_pictures(model, folder), (200.0, 250.0)),
            "pattern.png",
        ),
        (lambda model, photo, folder: own_panels.neighbours(model, photo, own_panels.indexed(model, folder), None), "hits.png"),
        (lambda model, photo, folder: own_panels.neighbours(model, photo, own_panels.indexed(model, folder), (200.0, 250.0)), "hits.png"),
        (lambda model, photo, folder: own_panels.composition(model, photo, own_panels.shipped()), "composition.png"),
        (lambda model, photo, folder: own_panels.pattern(model, photo, own_panels.shipped(), (200.0, 250.0)), "pattern.png"),
    ],
    ids=["composition", "pattern", "images", "patches", "shipped composition", "shipped pattern"],
)
def test_python_and_commands_make_the_same_picture(
    tiny: Model, photo: Photo, folder: Path, tmp_path: Path, panel: Callable[[Model, Photo, Path], Shown], out: str
) -> None:
    shown = panel(tiny, photo, folder)
    (tmp_path / "once").mkdir()
    for name in ("dog_chicky.jpg", PICTURES):
        (tmp_path / "once" / name).symlink_to(tmp_path / name)
    with contextlib.chdir(tmp_path / "once"):
        exec(compile(shown.python, "shown", "exec"), {})
        assert Image.open(out).tobytes() == shown.picture.tobytes()
    with contextlib.chdir(tmp_path):
        for line in shown.command.splitlines():
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, result.stderr
        assert Image.open(out).tobytes() == shown.picture.tobytes()


def test_an_atlas_by_probability_is_not_for_the_page(tiny: Model, folder: Path) -> None:
    atlas = find_patterns(tiny, folder / PICTURES, confidence="probability")
    with pytest.raises(UsageError, match=r"mine\.parquet was found with --confidence probability"):
        own_panels.of_file(atlas, "mine.parquet")


def test_an_atlas_of_another_shape_than_the_model(tiny: Model, photo: Photo) -> None:
    atlas = embedded_atlas()
    short = PatternAtlas(atlas.facts, atlas.table.slice(0, 5))
    facts = replace(atlas.facts, preprocessing={**atlas.facts.preprocessing, "patch": 2 * tiny.transform.patch})
    for wrong, words in ((short, "has 5 patterns"), (PatternAtlas(facts, atlas.table), f"patches of {2 * tiny.transform.patch} pixels")):
        opened = own_panels.of_file(wrong, "mine.parquet")
        with pytest.raises(UsageError, match=words):
            own_panels.pattern(tiny, photo, opened, (200.0, 250.0))
        with pytest.raises(UsageError, match=words):
            own_panels.composition(tiny, photo, opened)


def test_a_point_that_the_network_does_not_see(tiny: Model, photo: Photo, folder: Path) -> None:
    with pytest.raises(UsageError, match="does not see this part"):
        own_panels.pattern(tiny, photo, own_panels.of_pictures(tiny, folder), (0.0, 0.0))
