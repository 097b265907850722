"""The `ibot` app, and the one place where an error becomes a message."""

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ibot_hub
from ibot_cli import (
    attention,
    cache,
    components,
    demo,
    doctor,
    download,
    export,
    extract,
    match,
    models,
    patterns,
    push,
    search,
    train,
    verify,
)
from ibot_cli.evaluate.app import app as evaluate
from ibot_hub.errors import IBotError


class _Desk(TyperGroup):
    """Runs a command; what the user can put right is told in one line, anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except IBotError as error:
            print(f"ibot: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            print(" ".join(["\nibot: interrupted.", *getattr(interrupt, "__notes__", [])]), file=sys.stderr)
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=_Desk,
    name="ibot",
    help="Strong self-supervised vision features (iBOT, ICLR 2022), and what is in them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes up in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("models")(models.models)
app.command("info")(models.info)
app.command("download")(download.download)
app.command("verify")(verify.verify)
app.add_typer(cache.app, name="cache")
app.command("extract-features")(extract.extract_features)
app.command("attention")(attention.attention)
app.add_typer(patterns.app, name="patterns")
app.command("match")(match.match)
app.command("components")(components.components)
app.command("index")(search.index)
app.command("search")(search.search)
app.add_typer(evaluate, name="eval")
app.command("export")(export.export)
app.command("train")(train.train)
app.command("push")(push.push)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ibot-hub {ibot_hub.__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)] = False,
) -> None:
    pass


def main() -> None:
    """The entry of the `ibot` script."""
    # odd metadata in a picture that can be read is nothing that its owner could act on
    warnings.filterwarnings("ignore", module=r"PIL\.")
    app()


if __name__ == "__main__":
    main()
