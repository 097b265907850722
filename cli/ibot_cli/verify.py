"""`ibot verify`: what is checked of a model when it comes is checked again, in full, and so is what it answers."""

import dataclasses
import json
import sys
from typing import Annotated

import typer

from ibot_cli.models import AsJson
from ibot_hub.errors import WeightsError

MARKS = {True: "ok", False: "FAILED", None: "not checked"}


def verify(
    name: Annotated[
        str, typer.Argument(help="A name that `ibot models` lists, a file, a folder, or hf-hub:org/name, with @REVISION if need be.")
    ],
    network: Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")] = None,
    head: Annotated[
        bool | None, typer.Option("--head/--no-head", help="Of the file that holds the projection head; default: as it loads.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a model's files again: digests, tensors, answers.

    Nothing is downloaded. Exit code 1 if a check fails; what cannot be checked is told.
    """
    from ibot_hub.hub.verify import verify as check

    verification = check(name, network, head)
    if as_json:
        print(json.dumps({**dataclasses.asdict(verification), "passed": verification.passed}, indent=2, default=str))
    else:
        words = verification.card.in_words() if verification.card else "no model"
        print(f"{name}: {words}{', with head' if verification.head else ''}, {verification.path}", file=sys.stderr)
        for made in verification.checks:
            print(f"{MARKS[made.passed]:<11}  {made.what:<8}  {made.file}: {made.said}")
    if not verification.passed:
        first, *others = verification.failures
        raise WeightsError(first.said if not others else f"{first.said.rstrip('.')} ({len(others)} more failed).")
