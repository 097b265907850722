"""`ibot demo`: a page in the browser that shows what is inside a model."""

from typing import Annotated

import typer

from ibot_cli.models import ModelName, chosen_model


def demo(
    model: ModelName = None,
    host: Annotated[str, typer.Option("--host", help="Who may come: 127.0.0.1 this machine alone, 0.0.0.0 everyone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where it listens; 0: any port that is free.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="A public address too, through Gradio's servers.")] = False,
) -> None:
    """Show a page: attention, patterns, correspondences, components, search.

    It needs the demo extra, and no network: nothing on the page loads from outside.
    """
    from ibot_demo.server import serve

    serve(chosen_model(model), host=host, port=port, share=share)
