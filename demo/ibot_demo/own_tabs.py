"""The tabs that work on a collection, shipped or the person's own: patterns and search."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from ibot_demo import own_panels
from ibot_demo.inputs import EMPTY, WORK, Upload, Uploads, answer, answered, hint, one_picture, photo, refused, several_pictures, uploaded
from ibot_demo.limits import foreign_atlas
from ibot_demo.own_panels import Atlas, Indexes
from ibot_demo.shelf import Shelf
from ibot_demo.tabs import SINGLES, Tab, point
from ibot_demo.workspace import fill, gone_on_failure, remove
from ibot_hub.errors import IBotError, UsageError

KEPT = 3600  # seconds that a session's collection stays on disk
SHIPPED = "The atlas that ships with the package, of example photographs; it goes with the model tiny."
NO_INDEX = "Nothing is indexed yet: drop some pictures and press Index."


def patterns_tab(shelf: Shelf, model: gr.State, root: Path) -> Tab:
    """Click a patch: the layout of its pattern, from an atlas that ships, that is opened, or that is found in the person's pictures."""
    hint("The projection head sorts patches into patterns. Click a patch of the picture to see what else its pattern gathers.")
    own = gr.State(None, time_to_live=KEPT, delete_callback=lambda kept: remove(kept[0]) if kept else None)  # (folder or None, Atlas)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = one_picture("Picture", SINGLES, elem_id="patterns-image")
            button = gr.Button("Show its main patterns", variant="primary", elem_id="patterns-show")
            with gr.Accordion("Another atlas", open=False, elem_id="patterns-own"):
                gallery, _ = several_pictures("Your pictures", SINGLES, elem_id="patterns-pictures")
                find = gr.Button("Find patterns in these", elem_id="patterns-find")
                file = gr.File(
                    label="Or open an atlas that carries its pictures", file_types=[".parquet"], height=150, elem_id="patterns-file"
                )
                back = gr.Button("Back to the one that ships", size="sm", elem_id="patterns-back")
            which = gr.Markdown(SHIPPED, elem_id="patterns-which", elem_classes="hint")
        with gr.Column(scale=5, min_width=320):
            shown = answer("Patterns", elem_id="patterns-result")

    def atlas_of(kept: tuple[Path | None, Atlas] | None) -> Atlas:
        return kept[1] if kept else own_panels.shipped()

    def run(name: str, upload: Upload | None, kept: Any) -> tuple[Any, ...]:
        return answered(lambda: own_panels.composition(shelf.get(name, head=True), photo(upload), atlas_of(kept)))

    def follow(name: str, upload: Upload | None, kept: Any) -> tuple[Any, ...]:
        return run(name, upload, kept) if upload else EMPTY

    def click(name: str, upload: Upload | None, kept: Any, event: gr.SelectData) -> tuple[Any, ...]:
        return answered(lambda: own_panels.pattern(shelf.get(name, head=True), photo(upload), atlas_of(kept), point(event)))

    def unchanged(kept: Any, error: IBotError) -> tuple[Any, ...]:
        """The atlas before and what it answered stay."""
        return kept, refused(error)[1] + " The atlas before stays.", *(gr.skip() for _ in EMPTY)

    def found(name: str, uploads: Uploads, kept: Any, progress: gr.Progress = gr.Progress(track_tqdm=True)) -> tuple[Any, ...]:  # noqa: B008
        try:
            files = uploaded(uploads, 2)
            progress(0, desc="Loading the head")
            loaded = shelf.get(name, head=True)
            folder = fill(root, files)
            with gone_on_failure(folder):
                atlas = own_panels.of_pictures(loaded, folder)
        except IBotError as error:
            return unchanged(kept, error)
        remove(kept[0] if kept else None)
        facts = atlas.atlas.facts
        says = f"The atlas of {facts.images} pictures of yours; {(atlas.atlas.sizes > 0).sum()} patterns are in them."
        return (folder, atlas), says, *EMPTY

    def opened(name: str, upload: Upload | None, kept: Any) -> tuple[Any, ...]:
        if not upload:
            return kept, *(gr.skip() for _ in range(1 + len(EMPTY)))
        label = Path(str(upload.get("orig_name") or "the file")).name
        try:
            atlas = own_panels.of_file(foreign_atlas(upload["path"], label), label)
        except IBotError as error:
            return unchanged(kept, error)
        remove(kept[0] if kept else None)
        return (None, atlas), f"The atlas in {html.escape(label)}, found by {html.escape(atlas.atlas.facts.model)}.", *EMPTY

    def shipped(kept: Any) -> tuple[Any, ...]:
        remove(kept[0] if kept else None)
        return None, SHIPPED, *EMPTY

    asked = [model, image, own]
    button.click(run, asked, shown.parts, preprocess=False, api_name="patterns", **WORK)
    image.change(follow, asked, shown.parts, preprocess=False, api_visibility="private", trigger_mode="always_last", **WORK)
    image.select(click, asked, shown.parts, preprocess=False, api_visibility="private", **WORK)
    changed = [own, which, *shown.parts]
    find.click(found, [model, gallery, own], changed, preprocess=False, api_visibility="private", show_progress_on=which, **WORK)
    file.upload(opened, [model, file, own], changed, preprocess=False, api_visibility="private", **WORK)
    back.click(shipped, own, changed, api_visibility="private")
    return Tab(shown)


def search_tab(shelf: Shelf, model: gr.State, root: Path) -> Tab:
    """Index pictures, then ask with another."""
    hint("Index some pictures, then ask with one of them or another: the nearest pictures, and with a click the nearest patches.")
    own = gr.State(None, time_to_live=KEPT, delete_callback=lambda kept: remove(kept[0]) if kept else None)  # (folder, name, Indexes)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gallery, _ = several_pictures("Pictures to search in", [*SINGLES, "graf1.jpg", "graf3.jpg"], elem_id="search-pictures")
            index = gr.Button("Index them", elem_id="search-index")
            which = gr.Markdown(NO_INDEX, elem_id="search-which", elem_classes="hint")
            image = one_picture("Ask with this one", ["dog_chicky.jpg", "graf1.jpg"], elem_id="search-image")
            button = gr.Button("Find the nearest", variant="primary", elem_id="search-show")
        with gr.Column(scale=5, min_width=320):
            shown = answer("Search", elem_id="search-result")

    def indexes_of(name: str, kept: tuple[Path, str, Indexes] | None) -> Indexes:
        if kept is None:
            raise UsageError(NO_INDEX)
        if kept[1] != name:
            raise UsageError(f"The pictures were indexed with {kept[1]}; index them again with {name}.")
        return kept[2]

    def run(name: str, upload: Upload | None, kept: Any) -> tuple[Any, ...]:
        return answered(lambda: own_panels.neighbours(shelf.get(name), photo(upload), indexes_of(name, kept), None))

    def follow(name: str, upload: Upload | None, kept: Any) -> tuple[Any, ...]:
        return run(name, upload, kept) if upload and kept else EMPTY

    def click(name: str, upload: Upload | None, kept: Any, event: gr.SelectData) -> tuple[Any, ...]:
        return answered(lambda: own_panels.neighbours(shelf.get(name), photo(upload), indexes_of(name, kept), point(event)))

    def made(name: str, uploads: Uploads, kept: Any, progress: gr.Progress = gr.Progress(track_tqdm=True)) -> tuple[Any, ...]:  # noqa: B008
        try:
            files = uploaded(uploads, 1)
            progress(0, desc="Indexing")
            loaded = shelf.get(name)
            folder = fill(root, files)
            with gone_on_failure(folder):
                indexes = own_panels.indexed(loaded, folder)
        except IBotError as error:
            return kept, refused(error)[1]
        remove(kept[0] if kept else None)
        return (folder, name, indexes), f"{len(indexes.images)} pictures, {len(indexes.patches)} patches are indexed."

    asked = [model, image, own]
    index.click(made, [model, gallery, own], [own, which], preprocess=False, api_visibility="private", show_progress_on=which, **WORK)
    button.click(run, asked, shown.parts, preprocess=False, api_name="search", **WORK)
    image.change(follow, asked, shown.parts, preprocess=False, api_visibility="private", trigger_mode="always_last", **WORK)
    image.select(click, asked, shown.parts, preprocess=False, api_visibility="private", **WORK)
    return Tab(shown)
