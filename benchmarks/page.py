"""From the click on an example to the picture on the page, in a browser, with the embedded model: at most 1.5 s on two cores."""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, verdict

TARGET = 1.5  # seconds
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOWN = "([id, old]) => { const i = document.querySelector(id + ' img'); return i && i.src !== old && i.complete && i.naturalWidth > 0; }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="Keep every number in this file.")
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium is here: `make browser` installs it")
    facts = machine()
    print(json.dumps(facts))
    with tempfile.TemporaryFile("w+b") as said:
        server = subprocess.Popen(["ibot", "demo", "--model", "tiny", "--port", "0"], stderr=said, env=os.environ | {"PATH": _path()})
        try:
            seconds = measured(browser, _address(server, said), arguments.repeats)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    for name, values in seconds.items():
        print(f"{name:<12} {verdict(statistics.median(values), TARGET, at_least=False)}   {min(values):.2f} to {max(values):.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "seconds": seconds}, indent=2) + "\n")


def measured(browser: str, address: str, repeats: int) -> dict[str, list[float]]:
    """Seconds from the click until the new picture is shown, after one that does not count."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(address)
        examples = page.locator("#attention-image-examples button")
        examples.first.wait_for()
        attention = [_clicked(page, examples.nth(turn % 2), "#attention-result") for turn in range(repeats + 1)]
        page.get_by_role("tab", name="Correspondence").click()
        for part in ("first", "second"):
            page.locator(f"#match-{part}-examples button").first.click()
        page.wait_for_function(SHOWN, arg=["#match-result", ""])
        image = page.locator("#match-first img").first
        partner = [_clicked(page, image, "#match-result", 40 + 20 * (turn % 2)) for turn in range(repeats + 1)]
        chromium.close()
    return {"attention": attention[1:], "partner": partner[1:]}


def _clicked(page: Any, target: Any, result: str, at: int | None = None) -> float:
    image = page.locator(f"{result} img")
    old = image.first.get_attribute("src") if image.count() else ""
    target.scroll_into_view_if_needed()
    start = time.perf_counter()
    target.click(**({"position": {"x": at, "y": at}} if at else {}))
    page.wait_for_function(SHOWN, arg=[result, old])
    return time.perf_counter() - start


def _path() -> str:
    """The `ibot` of this Python goes first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _address(server: "subprocess.Popen[bytes]", said: Any) -> str:
    while server.poll() is None:
        said.seek(0)
        if found := re.search(rb"the page is at (\S+)", said.read()):
            return found.group(1).decode()
        time.sleep(0.1)
    sys.exit("the server did not start")


if __name__ == "__main__":
    main()
