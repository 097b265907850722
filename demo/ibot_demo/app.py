"""The page: a model picker with its card, and the tabs."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from ibot_demo.inputs import AT_ONCE, EMPTY
from ibot_demo.own_tabs import patterns_tab, search_tab
from ibot_demo.shelf import Shelf
from ibot_demo.tabs import attention_tab, components_tab, correspondence_tab
from ibot_hub import catalog
from ibot_hub.errors import IBotError
from ibot_hub.model import Model

TITLE = "iBOT: what is inside"
KEPT = 3600  # seconds that uploads and results stay on disk
SWEPT = 300  # seconds from one look for old files to the next
WAITING = 100  # people in the queue; the next one is told to come again


def build(shelf: Shelf, name: str, root: Path) -> gr.Blocks:
    """The page, showing the model of that name at first; people's own collections lie below `root`.

    Raises what loading the model raises.
    """
    first = shelf.get(name)
    names = list(dict.fromkeys([name, *catalog.list_models()]))
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEPT, KEPT)) as page:
        model = gr.State(name)
        with gr.Row(elem_id="head"):
            with gr.Column(scale=3, min_width=300):
                gr.HTML(
                    "<h1>What is inside</h1><p>Attention, patterns, correspondences and components of iBOT models. "
                    "Drop a picture, or click an example.</p>",
                    elem_id="title",
                )
            with gr.Column(scale=2, min_width=300):
                picker = gr.Dropdown(names, value=name, label="Model", elem_id="model", filterable=True)
                card = gr.HTML(card_of(first), elem_id="card")
        with gr.Tab("Attention", id="attention"):
            tabs = [attention_tab(shelf, model, first)]
        with gr.Tab("Patterns", id="patterns"):
            tabs.append(patterns_tab(shelf, model, root))
        with gr.Tab("Correspondence", id="correspondence"):
            tabs.append(correspondence_tab(shelf, model))
        with gr.Tab("Components", id="components"):
            tabs.append(components_tab(shelf, model))
        with gr.Tab("Search", id="search"):
            tabs.append(search_tab(shelf, model, root))

        def choose(wish: str, now: str, progress: gr.Progress = gr.Progress(track_tqdm=True)) -> tuple[Any, ...]:  # noqa: B008
            progress(0, desc=f"Loading {wish}")
            try:
                chosen = shelf.get(wish)
            except IBotError as error:
                gr.Warning(html.escape(f"{now} stays, {wish} cannot be had: {error}", quote=False))
                return (now, now, *(gr.skip() for _ in outputs[2:]))
            settings = [setting for tab in tabs for setting in tab.settings(chosen)]
            return (wish, wish, card_of(chosen), *settings, *(part for _ in tabs for part in EMPTY))

        inputs = [part for tab in tabs for part in tab.inputs]
        outputs = [picker, model, card, *inputs, *(part for tab in tabs for part in tab.answer.parts)]
        picker.select(choose, [picker, model], outputs, api_visibility="private", show_progress_on=card)
    page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE)
    return page


def card_of(model: Model) -> str:
    """What there is to say of a model, as HTML."""
    entry = catalog.info(model.card.name) if model.card.name in catalog.list_models() else None
    facts = [model.card.in_words()]
    if entry:
        facts += [entry.data + (f", {entry.epochs} epochs" if entry.epochs else "")]
        facts += [f"{metric} {value} %" for metric, value in entry.metrics.items()]
    facts += [model.card.licence, entry.notes if entry else ""]
    return " · ".join(html.escape(fact) for fact in facts if fact)
