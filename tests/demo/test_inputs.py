"""What people drop on the page that is too much for it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ibot_demo.limits import MAX_BYTES
from ibot_hub.errors import UsageError

OpenTab = Callable[..., Any]
inputs = pytest.importorskip("ibot_demo.inputs", reason="the page needs Gradio")


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "empty"), ("", "empty"), ("3", "3"), (True, "True"), ([], r"\[\]"), (0, "0"), (2**31, "2147483648"), (float("nan"), "nan")],
)
def test_a_number_that_is_none_or_outside(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=rf"^The seed is {words}; it must be a number from 1 to 60\.$"):
        inputs.number(value, "The seed", 1, 60)


def test_a_number_stays_as_it_is() -> None:
    assert [inputs.number(value, "The mass", 0.05, 1) for value in (0.05, 0.6, 1)] == [0.05, 0.6, 1]


def test_pictures_that_are_too_much_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = []
    for name in ("one.png", "two.png"):
        Image.new("L", (100, 50)).save(tmp_path / name)
        uploads.append({"image": {"path": str(tmp_path / name), "orig_name": name}})
    monkeypatch.setattr(inputs, "SHEET_PIXELS", 10_000)
    assert [(photo.name, photo.image.size) for photo in inputs.photos(uploads)] == [("one.png", (100, 50)), ("two.png", (100, 50))]
    monkeypatch.setattr(inputs, "SHEET_PIXELS", 9_999)
    monkeypatch.setattr(inputs, "picture", None)
    with pytest.raises(UsageError, match="million pixels together"):
        inputs.photos(uploads)


def test_a_picture_of_a_hundred_megapixels(open_tab: OpenTab, tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    tab = open_tab("Attention", "attention")
    tab.at("image").locator("input[type=file]").set_input_files(str(tmp_path / "huge.png"))
    tab.says("huge.png has 10000 x 10000 pixels; 40 million are the most.")
    assert tab.has_no_picture()


def test_an_upload_that_is_too_large(open_tab: OpenTab, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "large.jpg").write_bytes(random.Random(0).randbytes(MAX_BYTES + 1))
    tab = open_tab("Attention", "attention")
    tab.at("image").locator("input[type=file]").set_input_files(str(tmp_path / "large.jpg"))
    tab.page.get_by_text("large.jpg is larger than 20 MB, the most that is taken.").wait_for()
    tab.upload("image", photos / "coffee.jpg")
    tab.says("patches")


def test_examples_are_there_to_click(open_tab: OpenTab) -> None:
    tab = open_tab("Attention", "attention")
    tab.at("image-examples").locator("button").first.click()
    tab.says("patches")
    assert "cat_chelsea.jpg" in tab.code()
    tab = open_tab("Components", "components")
    tab.at("pictures-examples").click()
    tab.says("the foreground")
