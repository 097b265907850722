"""`ibot demo`: what reaches the server; the page itself is tested in a browser."""

from collections.abc import Callable

import pytest

from ibot_demo import server

Ibot = Callable[..., tuple[int, str, str]]


def test_what_is_said_is_what_is_served(ibot: Ibot, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(server, "serve", lambda name, **facts: served.append((name, facts)))
    code, _, stderr = ibot("demo")
    assert (code, "no --model" in stderr) == (0, True)
    assert ibot("demo", "--model", "vit_b16", "--host", "0.0.0.0", "--port", "0", "--share")[0] == 0
    assert served == [
        ("tiny", {"host": "127.0.0.1", "port": 7860, "share": False}),
        ("vit_b16", {"host": "0.0.0.0", "port": 0, "share": True}),
    ]


def test_without_the_extra(ibot: Ibot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    code, _, stderr = ibot("demo")
    assert (code, stderr.splitlines()[-1]) == (2, "ibot: The page needs Gradio, which is not installed; pip install 'ibot-hub[demo]'.")
