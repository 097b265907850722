"""A server on this machine's loopback whose answers can be made to fail in every way a download fails."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Answer:
    """What one path answers; a fault strikes the first `times` GET requests of that path."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True  # False: the whole file, whatever part is asked for
    versioned: bool = True  # False: neither ETag nor Last-Modified
    sized: bool = True  # False: no Content-Length
    most: int | None = None  # bytes a part brings at most
    gate: threading.Event | None = None  # the answer waits for it
    # faults
    times: int = 10**9
    fault_status: int | None = None
    cut: int | None = None  # close the connection after so many bytes of the body
    stall: int | None = None  # send nothing more after so many bytes of the body


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    if_range: str | None


class LoopbackServer(ThreadingHTTPServer):
    """Answers `answers[path]`, 404 for any other path, and remembers every request."""

    daemon_threads = False  # closing the server waits for its threads, so none outlives a test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.ending = threading.Event()

    def serve(self, path: str, body: bytes = b"", **facts: Any) -> Answer:
        """From now on `path` answers `body`; `facts` are the other fields of Answer."""
        self.answers[path] = Answer(body, **facts)
        return self.answers[path]

    def gets(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == "GET" and request.path == path]

    def handle_error(self, *_: object) -> None:
        """A client that was killed, or gave up waiting, is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackServer

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def log_message(self, *_: object) -> None:
        """Nothing on stderr, which tests read."""

    def _answer(self, method: str) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(Request(method, path, self.headers["Range"], self.headers["If-Range"]))
        answer = self.server.answers.get(path, Answer(status=404))
        if answer.gate:
            answer.gate.wait(20)
        struck = method == "GET" and len(self.server.gets(path)) <= answer.times
        status, body, headers = (answer.fault_status if struck else None) or answer.status, answer.body, dict(answer.headers)
        if status == 200:
            if answer.versioned:
                headers.setdefault("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            start = self._start(headers.get("ETag"))
            if answer.ranges and start is not None:
                if start >= len(body):
                    status, body = 416, b""
                else:
                    end = len(body) if answer.most is None else min(start + answer.most, len(body))
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
                    status, body = 206, body[start:end]
        self.send_response(status)
        if answer.sized:
            headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if method == "HEAD":
            return
        if struck and answer.cut is not None:
            body = body[: answer.cut]
        if struck and answer.stall is not None:
            self.wfile.write(body[: answer.stall])
            self.server.ending.wait(20)
            return
        self.wfile.write(body)

    def _start(self, version: str | None) -> int | None:
        """The byte asked for, unless it was asked for of another version."""
        wanted = self.headers["Range"]
        if wanted is None or self.headers["If-Range"] not in (None, version):
            return None
        return int(wanted.removeprefix("bytes=").partition("-")[0])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with LoopbackServer() as loopback:
        thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield loopback
        loopback.ending.set()
        loopback.shutdown()
        thread.join()
