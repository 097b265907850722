"""Ctrl-C, SIGTERM: wishes to stop, which the loop heeds after the step under way."""

import signal
from types import FrameType, TracebackType

WISHES = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While it is entered, the first signal is noted; a second one ends the process as it always would."""

    received: int | None = None  # the signal

    def __enter__(self) -> "Signals":
        self._before = {wish: signal.signal(wish, self._note) for wish in WISHES}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for wish, handler in self._before.items():
            signal.signal(wish, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for wish, handler in self._before.items():
            signal.signal(wish, handler)
