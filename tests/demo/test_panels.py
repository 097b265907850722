"""What panels answer, and that the Python and the command beside a picture make the same one."""

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ibot_cli.main import app
from ibot_demo import panels
from ibot_demo.panels import Photo, Shown
from ibot_hub.errors import UsageError
from ibot_hub.images import decode
from ibot_hub.loading import load
from ibot_hub.model import Model

NAME = 'it\'s "mine" $HOME.jpg'  # what a shell or Python might trip over


@pytest.fixture
def photo(photos: Path, tmp_path: Path) -> Photo:
    (tmp_path / NAME).write_bytes((photos / "graf1.jpg").read_bytes())
    return Photo(NAME, decode(tmp_path / NAME))


@pytest.fixture
def other(photos: Path, tmp_path: Path) -> Photo:
    (tmp_path / "graf3.jpg").write_bytes((photos / "graf3.jpg").read_bytes())
    return Photo("graf3.jpg", decode(tmp_path / "graf3.jpg"))


@pytest.mark.parametrize(
    ("panel", "out"),
    [
        (lambda model, one, two: panels.attention(model, one, layer=1, heads=(0, 2), mass=0.3, size=64), "attention.png"),
        (lambda model, one, two: panels.attention(model, one, layer=0, heads="mean", mass=0.9, size=112), "attention.png"),
        (lambda model, one, two: panels.correspondence(model, one, two, count=5, mutual=True), "matches.png"),
        (lambda model, one, two: panels.correspondence(model, two, one, count=7, mutual=False), "matches.png"),
        (lambda model, one, two: panels.views(model, one, seed=3, count=4, mutual=False), "views.png"),
        (lambda model, one, two: panels.component_colours(model, [one, two], background=True), "components.png"),
        (lambda model, one, two: panels.component_colours(model, [two], background=False), "components.png"),
    ],
)
def test_python_and_command_make_the_same_picture(
    tiny: Model, photo: Photo, other: Photo, tmp_path: Path, panel: Callable[[Model, Photo, Photo], Shown], out: str
) -> None:
    shown = panel(tiny, photo, other)
    with contextlib.chdir(tmp_path):
        exec(compile(shown.python, "shown", "exec"), {})
        assert Image.open(out).tobytes() == shown.picture.tobytes()
        Path(out).unlink()
        for line in shown.command.splitlines():
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, result.stderr
        assert Image.open(out).tobytes() == shown.picture.tobytes()


def test_a_swin_shows_what_it_has(golden: Path, other: Photo) -> None:
    swin = load(golden / "swin_micro_w7_checkpoint.pth")
    assert panels.heads_of(swin) == 1
    shown = panels.attention(swin, other, layer=swin.depth - 1, heads="all", mass=0.6, size=224)
    assert "a Swin has no [CLS]" in shown.says


def test_a_picture_with_too_many_patches(tiny: Model, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Photo("small.png", Image.new("RGB", (64, 64)))
    patches = (64 // tiny.transform.patch) ** 2
    monkeypatch.setattr(panels, "MAX_PATCHES", patches)
    long = Photo("long.png", Image.new("RGB", (1024, 64)))
    assert panels.attention(tiny, small, layer=0, heads="all", mass=0.5, size=64).says
    for panel in (
        lambda: panels.attention(tiny, long, layer=0, heads="all", mass=0.5, size=64),
        lambda: panels.correspondence(tiny, small, long, count=3, mutual=False),
        lambda: panels.partner(tiny, long, small, (3.0, 3.0)),
        lambda: panels.component_colours(tiny, [long], background=False),
    ):
        with pytest.raises(UsageError, match=rf"^long\.png would have \d+ x \d+ patches, and {patches} are the most here"):
            panel()


def test_what_cannot_be_shown(tiny: Model, photo: Photo, other: Photo) -> None:
    with pytest.raises(UsageError, match="No attention head is ticked"):
        panels.attention(tiny, photo, layer=0, heads=(), mass=0.5, size=64)
    with pytest.raises(UsageError, match="does not see this part"):
        panels.partner(tiny, photo, other, (photo.image.width + 1.0, 0.0))
