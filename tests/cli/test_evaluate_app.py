"""Every command of `ibot eval` says which table of the paper it measures."""

import re
from collections.abc import Callable

from ibot_cli.evaluate.app import app

Ibot = Callable[..., tuple[int, str, str]]


def test_the_commands_are_listed_with_their_tables(ibot: Ibot) -> None:
    code, stdout, _ = ibot("eval", "--help")
    assert code == 0
    for command in app.registered_commands:
        assert command.name
        assert f" {command.name} " in stdout
        told = ibot("eval", command.name, "--help")[1]
        assert re.search(r"Tables? \d|Fig\. \d|homography", " ".join(told.split())), command.name
