"""Real signals, sent to a real process."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ibot_training.signals import WISHES, Signals

# it says what it has heard in every hundredth of a second, and ends by itself after the second wish to end
PROGRAM = """
import time
from ibot_training.signals import Signals
with Signals() as signals:
    print("ready", flush=True)
    while signals.received is None:
        time.sleep(0.01)
    print("heard", int(signals.received), flush=True)
    time.sleep(LONGER)
print("left", flush=True)
time.sleep(LONGER)
"""


@contextmanager
def program(longer: float) -> Iterator[subprocess.Popen[str]]:
    text = PROGRAM.replace("LONGER", str(longer))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert line_of(process) == "ready"
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(wish: signal.Signals) -> None:
    """What is under way goes on to its end."""
    with program(0.2) as process:
        process.send_signal(wish)
        assert line_of(process) == f"heard {wish.value}"
        assert line_of(process) == "left"
        assert process.wait(20) == 0


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process(first: signal.Signals, second: signal.Signals) -> None:
    with program(60) as process:
        process.send_signal(first)
        assert line_of(process) == f"heard {first.value}"
        started = time.monotonic()
        process.send_signal(second)
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - started < 20
        assert process.returncode == -second
        assert ("KeyboardInterrupt" in errors) == (second is signal.SIGINT)


def test_a_signal_after_the_run_does_as_it_would() -> None:
    program_text = "import time\nfrom ibot_training.signals import Signals\nwith Signals(): pass\nprint('left', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program_text], stdout=subprocess.PIPE, text=True) as process:
        assert line_of(process) == "left"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(wish) for wish in WISHES]
    with Signals() as signals:
        assert [signal.getsignal(wish) for wish in WISHES] != before
        assert signals.received is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        assert [signal.getsignal(wish) for wish in WISHES] == before  # the next one does as it would
    assert [signal.getsignal(wish) for wish in WISHES] == before
