"""The page's own look."""

from collections.abc import Callable
from typing import Any


def test_fonts_are_the_readers_own_and_there_is_no_clutter(open_tab: Callable[..., Any]) -> None:
    tab = open_tab("Attention", "attention")
    family = tab.page.evaluate("getComputedStyle(document.querySelector('#attention-show')).fontFamily")
    assert family.startswith("system-ui")
    assert tab.page.evaluate("document.fonts.size") == 0 or not tab.page.evaluate(
        "[...document.fonts].some(font => font.status === 'loaded')"
    )
    assert not tab.page.locator("footer").is_visible()
