"""`ibot push`: a model becomes a repository of the Hugging Face Hub."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.options import options_from
from ibot_hub.options import PushOptions


@options_from(PushOptions)
def push(
    model: Annotated[str, typer.Argument(help="A name, a file, a folder such as that of a run, or hf-hub:org/name.")],
    name: Annotated[str, typer.Argument(help="The repository: organisation/name.")],
    network: Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")] = None,
    with_training_state: Annotated[
        bool, typer.Option("--with-training-state", help="Of a run: optimiser and all, so that `ibot train --from` goes on from it.")
    ] = False,
    *,
    options: PushOptions,
) -> None:
    """Publish a model on the Hugging Face Hub, for ibot-hub, timm and transformers.

    In one commit, with a card; of a run its recipe and numbers go too, and its whole training state if you say so.
    """
    from ibot_hub.hub.publish import check_name
    from ibot_hub.hub.publish import push as publish
    from ibot_hub.loading import load

    check_name(name)  # before a model is fetched for nothing
    state = None
    if with_training_state:
        from ibot_training.publishing import state_to_publish

        state = state_to_publish(Path(model))
    loaded = load(model, network=network)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    run = Path(model) if (Path(model) / "recipe.toml").is_file() else None
    address = publish(loaded, name, options, run=run, state=state)
    print(f"nothing was sent; without --dry-run it goes to {address}" if options.dry_run else address)
