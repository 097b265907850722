"""The page's own inputs: pictures that are only opened once their size is known, and the answers beside them."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ibot_demo.limits import MAX_IMAGES, picture, pixels_of
from ibot_demo.panels import Photo, Shown
from ibot_hub.errors import IBotError, UsageError

SHEET = 24  # pictures; more would be several sheets
SHEET_PIXELS = 160_000_000  # of them together, all decoded at once: 640 MB
AT_ONCE = 2  # computations, of all the people who use the page
WORK: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": AT_ONCE}  # for every event that computes
EXAMPLES = Path(__file__).parent / "examples"
Upload = dict[str, Any]  # as Gradio has it: `path` in the folder of uploads, `orig_name` as its owner calls it
Uploads = list[dict[str, Any]] | None  # each with the upload as its `image`


def hint(words: str) -> None:
    """What a tab shows, in a sentence or two."""
    gr.Markdown(words, elem_classes="hint")


def example(name: str) -> str:
    return str(EXAMPLES / name)


def one_picture(label: str, examples: list[str], *, elem_id: str) -> gr.Image:
    """An input that holds one picture and can be clicked. Events that read it say `preprocess=False`, and call `photo`.

    Gradio's own reading would decode the file, whatever its size, before any of ours is asked.
    """
    image = gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=300, elem_id=elem_id, elem_classes="clickable", buttons=[]
    )
    gr.Examples([[example(name)] for name in examples], image, label="Examples", elem_id=f"{elem_id}-examples", api_visibility="private")
    return image


def several_pictures(label: str, examples: list[str], *, elem_id: str) -> tuple[gr.Gallery, Any]:
    """An input that holds many pictures, and the event after which the examples are in it, which is no change to Gradio.

    As with `one_picture`, events say `preprocess=False`, and call `photos`.
    """
    gallery = gr.Gallery(
        label=label, type="filepath", file_types=["image"], columns=3, height=240, object_fit="cover", interactive=True, elem_id=elem_id,
        buttons=[], sources=["upload"],
    )  # fmt: skip
    button = gr.Button(f"Take the {len(examples)} examples", size="sm", elem_id=f"{elem_id}-examples")
    taken = button.click(lambda: [example(name) for name in examples], None, gallery, api_visibility="private", show_progress="hidden")
    return gallery, taken


def name_of(upload: Upload | None) -> tuple[str, str]:
    """Path and name of an upload; "" where there is none."""
    path = str((upload or {}).get("path") or "")
    return path, Path(str((upload or {}).get("orig_name") or path)).name


def photo(upload: Upload | None) -> Photo:
    """The picture that was uploaded; raises a child of `IBotError` where there is none, or it is no picture."""
    path, name = name_of(upload)
    return Photo(name, picture(path, name))


def uploaded(uploads: Uploads, least: int, most: int = MAX_IMAGES) -> list[tuple[str, str]]:
    """Path and name of each upload; raises `UsageError` for fewer than `least`, or more than `most`."""
    files = [name_of(item.get("image")) for item in uploads or []]
    if len(files) < least:
        raise UsageError(f"This needs at least {least} picture{'s' if least > 1 else ''}; drop some, or take the examples.")
    if len(files) > most:
        raise UsageError(f"These are {len(files)} pictures; {most} are the most.")
    return files


def photos(uploads: Uploads) -> list[Photo]:
    """The pictures that were uploaded, one at least, and as many as fit on one sheet and into memory."""
    files = uploaded(uploads, 1, SHEET)
    if sum(pixels_of(*file) for file in files) > SHEET_PIXELS:
        raise UsageError(f"These pictures have over {SHEET_PIXELS // 1_000_000} million pixels together; take fewer, or smaller ones.")
    return [Photo(name, picture(path, name)) for path, name in files]


def number(value: Any, name: str, low: float, high: float) -> float:
    """The number in a field, as it is; raises `UsageError` where it is empty, no number, or outside `low`..`high`.

    Gradio's own checks are off where an event says `preprocess=False`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{name} is {'empty' if value in (None, '') else value}; it must be a number from {low:,g} to {high:,g}.")
    return value


@dataclass(frozen=True)
class Answer:
    """Where a panel's answer is shown."""

    picture: gr.Image
    says: gr.Markdown
    python: gr.Code
    command: gr.Code

    @property
    def parts(self) -> list[Any]:
        return [self.picture, self.says, self.python, self.command]


def answer(name: str, *, elem_id: str) -> Answer:
    """The right side of a tab: a picture that is sent as PNG, a line of words, and what makes the same picture."""
    picture = gr.Image(
        label=name,
        show_label=False,
        format="png",
        type="pil",
        interactive=False,
        elem_id=elem_id,
        elem_classes="result",
        buttons=["download", "fullscreen"],
    )
    says = gr.Markdown(elem_id=f"{elem_id}-says", elem_classes="says")
    with gr.Accordion("The same in Python and as a command", open=False, elem_id=f"{elem_id}-code"):
        python = gr.Code(label="Python", language="python", interactive=False, elem_id=f"{elem_id}-python", lines=1)
        command = gr.Code(label="Command", language="shell", interactive=False, elem_id=f"{elem_id}-command", lines=1, wrap_lines=True)
    return Answer(picture, says, python, command)


def answered(work: Callable[[], Shown]) -> tuple[Any, ...]:
    """The parts of an answer; what a person can put right becomes a message in its place."""
    try:
        shown = work()
    except IBotError as error:
        return refused(error)
    return shown.picture, html.escape(shown.says, quote=False), shown.python, shown.command


def refused(error: IBotError) -> tuple[Any, ...]:
    """A message, on top of the page and where the answer would be."""
    words = html.escape(str(error), quote=False)
    gr.Warning(words)
    return None, words, "", ""


EMPTY: tuple[Any, ...] = (None, "", "", "")
