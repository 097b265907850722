"""Patterns and search in a browser: a person's own pictures, a click, and the library's own picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ibot_hub.draw.hits import draw_hits
from ibot_hub.draw.patterns import draw_pattern
from ibot_hub.features.extraction import extract
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.patterns.finding import find_patterns
from ibot_hub.retrieval.indexing import build_index
from ibot_hub.retrieval.neighbours import search

OpenTab = Callable[..., Any]
Ran = Callable[[str, str], Image.Image]
NAMES = ("cat_chelsea.jpg", "two_dogs.jpg", "dog_chicky.jpg", "coffee.jpg")


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.convert("RGB").tobytes()


@pytest.fixture
def pictures(tmp_path: Path, photos: Path) -> Path:
    """The folder that the Python of the page speaks of."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((photos / name).read_bytes())
    return folder


def test_patterns_of_own_pictures(open_tab: OpenTab, tiny: Model, photos: Path, pictures: Path, ran: Ran, tmp_path: Path) -> None:
    tab = open_tab("Patterns", "patterns")
    tab.at("own").locator("button").first.click()
    tab.upload("pictures", *(photos / name for name in NAMES))
    tab.at("find").click()
    tab.says("4 pictures of yours", "which")
    tab.upload("image", photos / "dog_chicky.jpg")
    tab.says("most attended patterns")
    assert same(ran(tab.code(), "composition.png"), tab.picture())
    atlas = find_patterns(tiny, pictures, per_image=6)
    photo = decode(photos / "dog_chicky.jpg")
    fit = atlas.transform.fit(*photo.size)
    patterns = tiny.pattern_ids(photo, transform=atlas.transform)
    for place in ((0, 0), (fit.rows - 1, fit.columns - 1), (3, 2)):
        tab.click_at("image", photo, *fit.centre(*place))
        pattern = int(patterns.ids[0, *place])
        tab.says(f"Patch (row {place[0]}, column {place[1]}) is of pattern {pattern}")
        assert same(tab.picture(), draw_pattern(atlas, pattern))
    assert same(ran(tab.code(), "pattern.png"), tab.picture())
    file = tmp_path / "mine.parquet"
    find_patterns(tiny, pictures, pictures=2000, members=9).save(file)
    tab.at("file").locator("input[type=file]").set_input_files(str(file))
    tab.says("The atlas in mine.parquet, found by tiny.", "which")
    tab.at("result").locator("img").first.wait_for(state="detached")
    assert "of pattern" not in tab.at("result-says").inner_text()
    assert "find_patterns" not in tab.at("result-python").inner_text()
    tab.at("show").click()
    tab.page.wait_for_function("document.querySelector('#patterns-result-python .cm-content')?.innerText.includes('mine.parquet')")
    assert same(ran(tab.code(), "composition.png"), tab.picture())


def test_search_in_own_pictures(open_tab: OpenTab, tiny: Model, photos: Path, pictures: Path, ran: Ran, tmp_path: Path) -> None:
    tab = open_tab("Search", "search")
    tab.upload("pictures", *(photos / name for name in NAMES))
    tab.at("index").click()
    tab.says("4 pictures", "which")
    tab.upload("image", photos / "squirrel.jpg")
    tab.says("The 4 nearest of 4 images")
    extract(tiny, pictures, tmp_path / "own", tokens="both")
    photo = decode(photos / "squirrel.jpg")
    assert same(tab.picture(), draw_hits(photo, search(build_index(tmp_path / "own", tmp_path / "a"), tiny, photo)))
    assert same(ran(tab.code(), "hits.png"), tab.picture())
    index = build_index(tmp_path / "own", tmp_path / "b", of="patches")
    hits = search(index, tiny, photo, patch=(2, 4))
    tab.click_at("image", photo, *hits.fit.centre(2, 4))
    tab.says("patches, by cosine")
    assert same(tab.picture(), draw_hits(photo, hits))


@pytest.mark.parametrize(("title", "name", "button", "words"), [
    ("Patterns", "patterns", "show", "no picture"), ("Search", "search", "show", "no picture"),
    ("Search", "search", "index", "needs at least 1 picture"),
])  # fmt: skip
def test_an_empty_form(open_tab: OpenTab, title: str, name: str, button: str, words: str) -> None:
    tab = open_tab(title, name)
    tab.at(button).click()
    tab.says(words, "which" if button == "index" else "result-says")
    assert tab.has_no_picture()


def test_text_in_the_place_of_pictures(open_tab: OpenTab, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("buy milk\n" * 100)
    (tmp_path / "notes.parquet").write_text("buy milk\n" * 100)
    tab = open_tab("Search", "search")
    tab.at("pictures").locator("input[type=file]").set_input_files(str(tmp_path / "notes.jpg"))
    tab.at("pictures").locator("img").first.wait_for(state="attached")
    tab.at("index").click()
    tab.says("notes.jpg: no image that can be read, whatever its name says", "which")
    tab = open_tab("Patterns", "patterns")
    tab.at("own").locator("button").first.click()
    tab.at("file").locator("input[type=file]").set_input_files(str(tmp_path / "notes.parquet"))
    tab.says("notes.parquet is not an atlas of patterns", "which")
    tab.says("The atlas before stays.", "which")
    tab.at("image").locator("input[type=file]").set_input_files(str(tmp_path / "notes.jpg"))
    tab.says("notes.jpg: no image that can be read, whatever its name says")
