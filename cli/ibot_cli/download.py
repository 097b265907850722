"""`ibot download`: what a model needs comes into the cache, checked, so that it loads without a connection."""

from typing import Annotated

import typer


def download(
    name: Annotated[str, typer.Argument(help="A name that `ibot models` lists, or hf-hub:org/name, with @REVISION if need be.")],
    network: Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")] = None,
    head: Annotated[bool, typer.Option("--head", help="With the projection head, which the smallest download may lack.")] = False,
) -> None:
    """Fetch a model into the cache and print where it is."""
    from ibot_hub import catalog
    from ibot_hub.hub.files import fetch
    from ibot_hub.hub.repositories import fetch_repository, split_name

    if name.startswith("hf-hub:"):
        print(fetch_repository(*split_name(name)))
    else:
        print(fetch(catalog.info(name), network=network, head=head))
