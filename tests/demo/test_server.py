"""How the server starts, and does not."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ibot_demo import server
from ibot_demo.server import serve
from ibot_hub.errors import UsageError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_port_that_is_taken(taken: int) -> None:
    with pytest.raises(
        UsageError, match=rf"^Port {taken} of 127\.0\.0\.1 cannot be had \(address already in use\); say another with --port"
    ):
        serve("tiny", host="127.0.0.1", port=taken, share=False)


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(UsageError, match=r"of 192\.0\.2\.1 cannot be had"):
        serve("tiny", host="192.0.2.1", port=0, share=False)


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'ibot-hub\[demo\]'"):
        serve("tiny", host="127.0.0.1", port=0, share=False)


LOADING = """
import sys, time
from ibot_demo import shelf
from ibot_demo.server import serve
def load(name, *, head):
    print("loading", flush=True)
    time.sleep(60)
shelf.load = load
serve("tiny", host="127.0.0.1", port=0, share=False)
"""


@pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs Gradio")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_ended_while_the_model_loads(ending: signal.Signals, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"loading\n"
        assert list(tmp_path.glob("ibot-demo-*"))
        process.send_signal(ending)
        assert process.wait(30) in (128 + ending, -ending)
    assert not list(tmp_path.glob("ibot-demo-*"))


def test_it_listens_to_this_machine_alone(served: str) -> None:
    port = int(served.rstrip("/").rpartition(":")[2])
    if sys.platform == "linux":
        with open("/proc/net/tcp") as table:  # noqa: PTH123
            listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
