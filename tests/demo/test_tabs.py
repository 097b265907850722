"""Attention, correspondence and components in a browser: an upload, a click, and the library's own picture."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ibot_hub.attention import attention_maps
from ibot_hub.correspondence import match, partner_map
from ibot_hub.draw.attention import draw_attention
from ibot_hub.draw.components import draw_components
from ibot_hub.draw.matches import draw_matches
from ibot_hub.images import decode
from ibot_hub.model import Model
from ibot_hub.pca import components

OpenTab = Callable[..., Any]
Ran = Callable[[str, str], Image.Image]


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.convert("RGB").tobytes()


def test_attention(open_tab: OpenTab, tiny: Model, photos: Path, ran: Ran) -> None:
    tab = open_tab("Attention", "attention")
    photo = photos / "two_dogs.jpg"
    tab.upload("image", photo)
    tab.says("patches")
    transform = replace(tiny.transform, size=28 * tiny.transform.patch, resize="keep")
    maps = attention_maps(tiny, photo, transform=transform)
    first = tab.picture()
    assert same(first, draw_attention(photo, maps))
    assert same(ran(tab.code(), "attention.png"), first)
    tab.at("heads").locator("input").nth(1).uncheck()
    others = tuple(head for head in range(len(maps.weights)) if head != 1)
    tab.page.wait_for_function("words => document.querySelector('#attention-result-python .cm-content').innerText.includes(words)",
                               arg=f"heads={others!r}")  # fmt: skip
    assert same(tab.picture(), draw_attention(photo, maps, heads=others))


def test_correspondence(open_tab: OpenTab, tiny: Model, photos: Path, ran: Ran) -> None:
    tab = open_tab("Correspondence", "match")
    first, second = (decode(photos / name) for name in ("graf1.jpg", "graf3.jpg"))
    tab.upload("first", photos / "graf1.jpg")
    tab.upload("second", photos / "graf3.jpg")
    tab.says("12 pairs")
    assert same(tab.picture(), draw_matches(match(tiny, first, second), first, second))
    assert same(ran(tab.code(), "matches.png"), tab.picture())
    partners = partner_map(tiny, first, second)
    for place in ((0, 0), (3, 5), (partners.first.rows - 1, partners.first.columns - 1)):
        tab.click_at("first", first, *partners.first.centre(*place))
        row, column = partners.partners[place]
        tab.says(f"Patch (row {place[0]}, column {place[1]}) goes to (row {row}, column {column})")
    assert same(ran(tab.code(), "partner.png"), tab.picture())
    tab.at("views").click()
    tab.says("are right")
    assert same(ran(tab.code(), "views.png"), tab.picture())


def test_a_turned_photograph_is_clicked_as_it_is_seen(open_tab: OpenTab, tiny: Model, photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    upright = decode(photos / "graf1.jpg")
    turned = tmp_path / "turned.jpg"
    upright.rotate(90, expand=True).save(turned, exif=exif, quality=95)
    tab = open_tab("Correspondence", "match")
    tab.upload("first", turned)
    tab.upload("second", photos / "graf3.jpg")
    tab.says("12 pairs")
    shown = decode(turned)
    assert shown.size == upright.size
    fit = partner_map(tiny, shown, shown).first
    place = (1, fit.columns - 2)
    tab.click_at("first", shown, *fit.centre(*place))
    tab.says(f"Patch (row {place[0]}, column {place[1]}) goes")


def test_components(open_tab: OpenTab, tiny: Model, photos: Path, ran: Ran) -> None:
    tab = open_tab("Components", "components")
    chosen = [photos / name for name in ("cat_chelsea.jpg", "dog_chicky.jpg")]
    tab.upload("pictures", *chosen)
    tab.says("the foreground")
    images = [decode(photo) for photo in chosen]
    first = tab.picture()
    assert same(first, draw_components(images, components(tiny, images).maps, [photo.name for photo in chosen]))
    assert same(ran(tab.code(), "components.png"), first)
    tab.at("background").locator("input").check()
    tab.says("all patches")
    assert not np.array_equal(np.asarray(tab.picture()), np.asarray(first))


@pytest.mark.parametrize(("title", "name", "part", "words"), [
    ("Attention", "attention", "image", "no picture"), ("Correspondence", "match", "first", "no picture"),
    ("Components", "components", "pictures", "needs at least 1"),
])  # fmt: skip
def test_bad_input(open_tab: OpenTab, tmp_path: Path, title: str, name: str, part: str, words: str) -> None:
    """An empty form, then a text file that is called a picture."""
    tab = open_tab(title, name)
    tab.at("show").click()
    tab.says(words)
    (tmp_path / "notes.jpg").write_text("buy milk\n" * 100)
    tab.at(part).locator("input[type=file]").first.set_input_files(str(tmp_path / "notes.jpg"))
    tab.at(part).locator("img").first.wait_for(state="attached")
    tab.at("show").click()
    tab.says("notes.jpg: no image that can be read, whatever its name says")
    assert tab.has_no_picture()
