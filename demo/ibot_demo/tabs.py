"""The tabs that ask the model alone: attention, correspondence, components."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ibot_demo import panels
from ibot_demo.inputs import (
    EMPTY,
    WORK,
    Answer,
    Upload,
    Uploads,
    answer,
    answered,
    hint,
    number,
    one_picture,
    photo,
    photos,
    several_pictures,
)
from ibot_demo.shelf import Shelf
from ibot_hub.errors import UsageError
from ibot_hub.model import Model
from ibot_hub.options import AttentionOptions, Heads, MatchOptions

SINGLES = ["cat_chelsea.jpg", "two_dogs.jpg", "dog_chicky.jpg", "flower_dahlia.jpg"]
SIZES = [64, 112, 224, 336, 448, 672]  # pixels
MASS = (0.05, 1)
PAIRS = (1, 60)
SEEDS = (0, 2**31 - 1)
ROWS = 28  # of patches along the short side, at first: 224 pixels with patches of 8, 448 with 16


@dataclass(frozen=True)
class Tab:
    """What the page has to know of a tab when another model is chosen."""

    answer: Answer
    inputs: tuple[Any, ...] = ()
    settings: Callable[[Model], list[Any]] = lambda _: []  # these inputs, as the model needs them


def attention_tab(shelf: Shelf, model: gr.State, first: Model) -> Tab:
    """Pick heads, the block and the mass."""
    hint("What the image's [CLS] token attends to: the strongest patches of each attention head, in that head's colour.")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = one_picture("Picture", SINGLES, elem_id="attention-image")
            heads = gr.CheckboxGroup(label="Attention heads", elem_id="attention-heads", **_heads(first))
            mean = gr.Checkbox(False, label="Their mean as one map", elem_id="attention-mean", container=False)
            mass = gr.Slider(*MASS, AttentionOptions.mass, step=0.05, label="Mass", info="The share of a head's weight that is coloured.")
            layer = gr.Slider(
                label="Block", info="From 0 on; the last is the deepest.", step=1, elem_id="attention-layer", **_blocks(first)
            )
            size = gr.Dropdown(SIZES, value=_size(first), label="Pixels of the short side", filterable=False)
            button = gr.Button("Show attention", variant="primary", elem_id="attention-show")
        with gr.Column(scale=5, min_width=320):
            shown = answer("Attention", elem_id="attention-result")

    def run(name: str, upload: Upload | None, heads: list[int] | None, mean: bool, mass: Any, layer: Any, size: int) -> tuple[Any, ...]:
        def work() -> panels.Shown:
            if size not in SIZES:
                raise UsageError(f"The size is {size}; it must be one of {', '.join(map(str, SIZES))}.")
            model = shelf.get(name)
            count = panels.heads_of(model)
            ticked = sorted({int(number(head, "An attention head", 0, count - 1)) for head in heads or []})
            chosen: Heads = "mean" if mean else "all" if len(ticked) == count else tuple(ticked)
            block = int(number(layer, "The block", 0, model.depth - 1))
            return panels.attention(model, photo(upload), layer=block, heads=chosen, mass=number(mass, "The mass", *MASS), size=size)

        return answered(work)

    def follow(name: str, upload: Upload | None, *settings: Any) -> tuple[Any, ...]:
        """What a changed setting shows: nothing, while there is no picture."""
        return run(name, upload, *settings) if upload else EMPTY

    inputs = [model, image, heads, mean, mass, layer, size]
    button.click(run, inputs, shown.parts, preprocess=False, api_name="attention", **WORK)
    changes = [image.change, heads.input, mean.input, mass.input, layer.input, size.input]
    gr.on(changes, follow, inputs, shown.parts, trigger_mode="always_last", preprocess=False, api_visibility="private", **WORK)
    return Tab(shown, (heads, layer, size), lambda model: [gr.update(**_heads(model)), gr.update(**_blocks(model)), _size(model)])


def _heads(model: Model) -> dict[str, Any]:
    numbers = list(range(panels.heads_of(model)))
    return {"choices": [(str(number), number) for number in numbers], "value": numbers}


def _blocks(model: Model) -> dict[str, Any]:
    return {"minimum": 0, "maximum": model.depth - 1, "value": model.depth - 1}


def _size(model: Model) -> int:
    return min(SIZES, key=lambda size: abs(size - ROWS * model.transform.patch))


def correspondence_tab(shelf: Shelf, model: gr.State) -> Tab:
    """Two pictures, or two views of one; a click on the first asks for one patch's partner."""
    hint("Each patch of the first picture finds its best partner in the second. Click a patch of the first picture to see its own.")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                with gr.Column(min_width=200):
                    first = one_picture("First picture", ["graf1.jpg", "dog_chicky.jpg"], elem_id="match-first")
                with gr.Column(min_width=200):
                    second = one_picture("Second picture", ["graf3.jpg", "two_dogs.jpg"], elem_id="match-second")
            with gr.Row():
                count = gr.Slider(*PAIRS, MatchOptions.count, step=1, label="Pairs", info="The strongest.", min_width=200)
                mutual = gr.Checkbox(MatchOptions.mutual, label="Only pairs that are each other's best", min_width=200)
            button = gr.Button("Match the two", variant="primary", elem_id="match-show")
            with gr.Row(equal_height=True):
                views = gr.Button("Two views of the first", elem_id="match-views", min_width=200)
                seed = gr.Number(0, label="Seed of the views", precision=0, minimum=SEEDS[0], maximum=SEEDS[1], min_width=200)
        with gr.Column(scale=4, min_width=320):
            shown = answer("Correspondence", elem_id="match-result")

    def run(name: str, one: Upload | None, other: Upload | None, count: Any, mutual: bool) -> tuple[Any, ...]:
        def work() -> panels.Shown:
            pairs = int(number(count, "The number of pairs", *PAIRS))
            return panels.correspondence(shelf.get(name), photo(one), photo(other), count=pairs, mutual=mutual)

        return answered(work)

    def follow(name: str, one: Upload | None, other: Upload | None, count: Any, mutual: bool) -> tuple[Any, ...]:
        return run(name, one, other, count, mutual) if one and other else EMPTY

    def click(name: str, one: Upload | None, other: Upload | None, event: gr.SelectData) -> tuple[Any, ...]:
        return answered(lambda: panels.partner(shelf.get(name), photo(one), photo(other), point(event)))

    def of_views(name: str, one: Upload | None, seed: Any, count: Any, mutual: bool) -> tuple[Any, ...]:
        def work() -> panels.Shown:
            drawn, pairs = int(number(seed, "The seed", *SEEDS)), int(number(count, "The number of pairs", *PAIRS))
            return panels.views(shelf.get(name), photo(one), seed=drawn, count=pairs, mutual=mutual)

        return answered(work)

    button.click(run, [model, first, second, count, mutual], shown.parts, preprocess=False, api_name="match", **WORK)
    changes = [first.change, second.change, count.input, mutual.input]
    gr.on(
        changes,
        follow,
        [model, first, second, count, mutual],
        shown.parts,
        trigger_mode="always_last",
        preprocess=False,
        api_visibility="private",
        **WORK,
    )
    first.select(click, [model, first, second], shown.parts, preprocess=False, api_visibility="private", **WORK)
    views.click(of_views, [model, first, seed, count, mutual], shown.parts, preprocess=False, api_name="views", **WORK)
    return Tab(shown)


def point(event: gr.SelectData) -> tuple[float, float]:
    """(x, y) in pixels of the picture as given: Gradio rounds to whole ones, of the frame in which the first spans 0 to 1."""
    return float(event.index[0]), float(event.index[1])


def components_tab(shelf: Shelf, model: gr.State) -> Tab:
    """Several pictures in one frame of colours."""
    hint(
        "Patch features, reduced to three numbers that are drawn as red, green and blue: the same part has the same colour in each picture."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gallery, taken = several_pictures("Pictures", SINGLES, elem_id="components-pictures")
            background = gr.Checkbox(False, label="Colour the background too", elem_id="components-background", container=False)
            button = gr.Button("Show components", variant="primary", elem_id="components-show")
        with gr.Column(scale=5, min_width=320):
            shown = answer("Components", elem_id="components-result")

    def run(name: str, uploads: Uploads, background: bool) -> tuple[Any, ...]:
        return answered(lambda: panels.component_colours(shelf.get(name), photos(uploads), background=background))

    def follow(name: str, uploads: Uploads, background: bool) -> tuple[Any, ...]:
        return run(name, uploads, background) if uploads else EMPTY

    button.click(run, [model, gallery, background], shown.parts, preprocess=False, api_name="components", **WORK)
    asked, silent = [model, gallery, background], {"preprocess": False, "api_visibility": "private", **WORK}
    gr.on([gallery.upload, background.input], follow, asked, shown.parts, trigger_mode="always_last", **silent)
    taken.then(follow, asked, shown.parts, **silent)
    return Tab(shown)
