"""The page as a whole: many at once, other models, nothing from outside, nothing it should not give."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from ibot_demo.limits import MAX_BYTES
from ibot_hub.attention import attention_maps
from ibot_hub.draw.attention import draw_attention
from ibot_hub.model import Model

OpenTab = Callable[..., Any]


def asked(address: str, photo: Path, size: int) -> Image.Image:
    """The attention tab's picture, over plain HTTP as any program may ask for it."""
    api = f"{address}gradio_api"
    with photo.open("rb") as stream:
        path = requests.post(f"{api}/upload", files={"files": (photo.name, stream)}, timeout=60).json()[0]
    upload = {"path": path, "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
    event = requests.post(f"{api}/call/attention", json={"data": [upload, [0, 1, 2], False, 0.6, 3, size]}, timeout=60).json()["event_id"]
    answer = requests.get(f"{api}/call/attention/{event}", timeout=120).text
    assert "event: complete" in answer, answer
    parts = json.loads(answer.rpartition("data: ")[2])
    return Image.open(io.BytesIO(requests.get(parts[0]["url"], timeout=60).content)).convert("RGB")


def test_twenty_at_once(served: str, tiny: Model, photos: Path) -> None:
    """Each gets the answer to its own question."""
    chosen = sorted(photos.iterdir())[:10] * 2
    sizes = [64] * 10 + [112] * 10
    with ThreadPoolExecutor(20) as executor:
        answers = list(executor.map(asked, [served] * 20, chosen, sizes))
    for photo, size, answer in zip(chosen, sizes, answers, strict=True):
        maps = attention_maps(tiny, photo, transform=replace(tiny.transform, size=size, resize="keep"))
        assert answer.tobytes() == draw_attention(photo, maps, heads=(0, 1, 2)).tobytes()


def test_two_people_do_not_see_each_other(open_tab: OpenTab, photos: Path) -> None:
    one, other = open_tab("Search", "search"), open_tab("Search", "search")
    one.upload("pictures", photos / "coffee.jpg")
    one.at("index").click()
    one.says("1 pictures", "which")
    other.upload("image", photos / "coffee.jpg")
    other.at("show").click()
    other.says("Nothing is indexed yet")
    one.upload("image", photos / "coffee.jpg")
    one.says("The 1 nearest of 1 images")


def test_a_model_that_cannot_be_had_leaves_the_old_one(open_tab: OpenTab, photos: Path) -> None:
    tab = open_tab("Attention", "attention")
    picker = tab.page.locator("#model input")
    picker.click()
    tab.page.get_by_role("option", name="attmask_vit_s16").click()
    tab.page.get_by_text("tiny stays, attmask_vit_s16 cannot be had: ").wait_for()
    tab.page.wait_for_function("document.querySelector('#model input').value === 'tiny'")
    tab.upload("image", photos / "coffee.jpg")
    tab.says("patches")
    assert "'tiny'" in tab.code()


def test_an_upload_beyond_the_bound_is_refused_by_the_server_too(served: str) -> None:
    answer = requests.post(f"{served}gradio_api/upload", files={"files": ("large.jpg", bytes(MAX_BYTES + 1))}, timeout=60)
    assert answer.status_code == 413


def test_only_its_own_folder_is_served(served: str, photos: Path) -> None:
    own = Path(__file__)
    for path in ("/etc/passwd", str(own), str(photos / "coffee.jpg"), "/tmp", "../../../etc/passwd"):
        assert requests.get(f"{served}gradio_api/file={path}", timeout=60).status_code in (403, 404), path
    upload = {"path": str(photos / "coffee.jpg"), "meta": {"_type": "gradio.FileData"}}
    data = {"data": [upload, [0, 1, 2], False, 0.6, 3, 64]}
    event = requests.post(f"{served}gradio_api/call/attention", json=data, timeout=60).json()["event_id"]
    assert "event: error" in requests.get(f"{served}gradio_api/call/attention/{event}", timeout=60).text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_scrolling_sideways(open_tab: OpenTab, scheme: str) -> None:
    tab = open_tab("Attention", "attention", color_scheme=scheme, viewport={"width": 390, "height": 800})
    for name in ("Attention", "Patterns"):  # the others are behind the dots
        tab.page.get_by_role("tab", name=name).click()
        tab.page.wait_for_function("document.documentElement.scrollWidth <= 390")
    light = tab.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (light > 128) == (scheme == "light")
