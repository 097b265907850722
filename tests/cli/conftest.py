"""The command, run in this process: exit code, standard output, standard error."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibot_cli.main import app

Ibot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ibot() -> Ibot:
    def run(*words: str | Path) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def checkpoint(golden: Path) -> str:
    return str(golden / "vit_micro_checkpoint.pth")
