"""One server and one browser for all tests of the page; each test has a page of its own, which must ask nobody else."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ibot_hub.loading import load
from ibot_hub.model import Model

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 60  # seconds


@pytest.fixture(scope="session")
def tiny() -> Model:
    return load("tiny", head=True)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that `ibot demo` started. At the end it must leave nothing behind, and have had no bug."""
    if find_spec("gradio") is None:
        pytest.skip("the page needs Gradio: pip install 'ibot-hub[demo]'")
    temporary, said = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("said") / "stderr"
    environment = os.environ | {"TMPDIR": str(temporary), "NO_PROXY": "127.0.0.1"}
    words = ["demo", "--model", "tiny", "--port", "0"]
    command = [sys.executable, "-c", f"import sys; sys.argv = ['ibot', *{words!r}]; from ibot_cli.main import main; main()"]
    with said.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=environment)
    try:
        deadline = time.monotonic() + 4 * PATIENCE
        while not (found := re.search(r"the page is at (\S+)", said.read_text())):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
    assert (code, list(temporary.iterdir())) == (0, [])
    printed = said.read_text()
    # Gradio itself shows where it refused a path that nobody uploaded
    assert printed.count("Traceback") == printed.count("InvalidPathError: Cannot move"), printed


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium is here: `make browser` installs it")
    playwright = pytest.importorskip("playwright.sync_api", reason="the tests in a browser need playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


class Tab:
    """A page in the browser, on one of its tabs."""

    def __init__(self, page: Any, name: str, address: str) -> None:
        self.page, self.name, self.address = page, name, address

    def at(self, part: str) -> Any:
        return self.page.locator(f"#{self.name}-{part}")

    def upload(self, part: str, *files: Path) -> None:
        self.at(part).locator("input[type=file]").first.set_input_files([str(file) for file in files])
        self.at(part).locator("img").first.wait_for()

    def says(self, words: str, part: str = "result-says") -> str:
        """What the line says, once it has these words."""
        self.page.wait_for_function(
            "([id, words]) => document.getElementById(id)?.innerText.includes(words)", arg=[f"{self.name}-{part}", words]
        )
        return str(self.at(part).inner_text())

    def click_at(self, part: str, image: Image.Image, x: float, y: float) -> None:
        """Click where (x, y) of the image as given is shown."""
        shown = self.at(part).locator("img").first
        shown.scroll_into_view_if_needed()
        box = shown.bounding_box()
        scale = min(box["width"] / image.width, box["height"] / image.height, 1)
        left, top = (box["width"] - image.width * scale) / 2, (box["height"] - image.height * scale) / 2
        self.page.mouse.click(box["x"] + left + x * scale, box["y"] + top + y * scale)

    def picture(self) -> Image.Image:
        """The result as it came over the wire: PNG."""
        source = self.at("result").locator("img").first.get_attribute("src")
        answer = self.page.request.get(source)
        picture = Image.open(io.BytesIO(answer.body()))
        assert picture.format == "PNG"
        return picture.convert("RGB")

    def code(self) -> str:
        """The Python that is shown."""
        python = self.at("result-python").locator(".cm-content")
        if not python.is_visible():
            self.at("result-code").locator("button").first.click()
            python.wait_for()
        return str(python.inner_text())

    def has_no_picture(self) -> bool:
        return int(self.at("result").locator("img").count()) == 0


@pytest.fixture
def open_tab(browser: Any, served: str) -> Iterator[Callable[..., Tab]]:
    """A tab of a fresh page, by its title and the name that its parts begin with."""
    asked: list[str] = []
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_(title: str, name: str, **facts: Any) -> Tab:
            context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | facts)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(PATIENCE * 1000)
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(served)
            page.get_by_role("tab", name=title).click()
            page.locator(f"#{name}-result").wait_for()
            stack.callback(lambda: wrong.extend(["Traceback"] if "Traceback" in page.inner_text("body") else []))
            return Tab(page, name, served)

        yield open_
    assert wrong == []
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


@pytest.fixture
def ran(tmp_path: Path, photos: Path) -> Callable[[str, str], Image.Image]:
    """What the Python that the page shows writes, where the photographs and `pictures` are at hand."""

    def run(code: str, out: str) -> Image.Image:
        for photo in photos.iterdir():
            (tmp_path / photo.name).unlink(missing_ok=True)
            shutil.copyfile(photo, tmp_path / photo.name)
        with contextlib.chdir(tmp_path):
            exec(compile(code, "the page", "exec"), {})
        return Image.open(tmp_path / out).convert("RGB")

    return run
