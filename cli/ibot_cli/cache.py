"""`ibot cache`: what is kept of models on this machine, and room made."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.models import AsJson
from ibot_hub.errors import UsageError

if TYPE_CHECKING:
    from ibot_hub.hub.cache import Cached

app = typer.Typer(no_args_is_help=True, help="See what the cache holds, and remove it.", rich_markup_mode=None)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the models in the cache.

    Repositories of Hugging Face are listed where they were loaded through ibot-hub; their files are in that library's own cache.
    """
    from ibot_hub.hub.cache import list_cache
    from ibot_hub.hub.download import megabytes
    from ibot_hub.hub.places import cache_folder

    entries = list_cache()
    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2, default=str))
        return
    header = ("NAME", "NETWORK", "HEAD", "DIGEST", "SIZE", "DATE")
    rows = [
        (each.name, each.network or "-", "yes" if each.head else "-", each.state, megabytes(each.size), each.date.partition("T")[0])
        for each in entries
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows] if rows else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    own, theirs = (_on_disk(each for each in entries if each.hugging_face is there) for there in (False, True))
    beside = f"; {megabytes(theirs)} of repositories in Hugging Face's own cache" if theirs else ""
    print(f"{megabytes(own)} in {cache_folder()}{beside}", file=sys.stderr)


def _on_disk(entries: "Iterable[Cached]") -> int:
    """Bytes; what commits share is there once."""
    return sum(file.stat().st_size for file in {file.resolve() for each in entries for file in each.files})


@app.command()
def clear(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names that `ibot cache list` shows; of a repository with @COMMIT or without.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All but repositories, whose files are in Hugging Face's own cache.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget-digests", help="Also what was recorded at first use; else a file that changed upstream is refused.")
    ] = False,
) -> None:
    """Remove models from the cache, without a question.

    A download that is running is waited for, and what it brings is removed.
    """
    from ibot_hub.hub.cache import clear_cache, list_cache
    from ibot_hub.hub.download import megabytes

    if bool(names) == everything:
        raise UsageError("Say which models, or --all; `ibot cache list` shows what is there.")
    for name, size in clear_cache(names or None, forget=forget).items():
        print(f"{name}: {megabytes(size)} freed" if size else f"{name}: nothing was there")
    for each in list_cache() if everything else ():
        print(f"{each.name} stays in Hugging Face's cache; name it to remove it", file=sys.stderr)
