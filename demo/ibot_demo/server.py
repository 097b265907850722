"""The server of the page: one port, one folder that goes away, until somebody ends it."""

import os
import signal
import socket
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

from ibot_hub.errors import UsageError


def serve(name: str, *, host: str, port: int, share: bool) -> None:
    """Show the page until Ctrl-C or SIGTERM; what people uploaded is gone afterwards.

    Args:
        name: the model that is shown at first, as `ibot_hub.load` takes it.
        host: the address that is listened at; "127.0.0.1" is for this machine alone.
        port: 0 takes one that is free.
        share: a public address too, through Gradio's servers.

    Raises:
        UsageError: Gradio is not installed, or the port is taken; and what loading the model raises.
    """
    if find_spec("gradio") is None:
        raise UsageError("The page needs Gradio, which is not installed; pip install 'ibot-hub[demo]'.")
    port = _free(host, port)
    # while the model loads there is no page to close, but a folder to remove; Ctrl-C is Python's own until then
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="ibot-demo-", ignore_cleanup_errors=True) as folder:
        served, own = Path(folder, "served"), Path(folder, "own")
        own.mkdir()
        # read when Gradio is imported, so here and not earlier; what is served are uploads and results, beside the examples
        os.environ.update({"GRADIO_TEMP_DIR": str(served), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"})
        from ibot_demo.app import build
        from ibot_demo.inputs import EXAMPLES
        from ibot_demo.limits import MAX_BYTES
        from ibot_demo.shelf import Shelf
        from ibot_demo.style import CSS, HEAD, theme

        page = build(Shelf(), name, own)
        page.launch(
            server_name=host, server_port=port, share=share, theme=theme(), css=CSS, head=HEAD, max_file_size=MAX_BYTES,
            allowed_paths=[str(EXAMPLES)],
            footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, inbrowser=False,
            show_error=False, prevent_thread_lock=True, quiet=True,
        )  # fmt: skip
        over = threading.Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, lambda *_: over.set())
        print(f"the page is at {page.local_url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        over.wait()
        page.close(verbose=False)


def _free(host: str, port: int) -> int:
    """The port, or for 0 one that is free; raises `UsageError` where it cannot be had."""
    try:
        with socket.create_server((host, port)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise UsageError(
            f"Port {port} of {host} cannot be had ({reason}); say another with --port, or --port 0 for any that is free."
        ) from error
