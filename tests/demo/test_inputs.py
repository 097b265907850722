"""What people drop on the page that is too much for it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ibot_demo.limits import MAX_BYTES

OpenTab = Callable[..., Any]


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
