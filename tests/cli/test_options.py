"""The options of a command come from the dataclass of the library."""

from collections.abc import Callable

from ibot_hub.options import ExtractOptions

Ibot = Callable[..., tuple[int, str, str]]


def test_the_options_of_the_command_are_those_of_the_library(ibot: Ibot) -> None:
    """One place for every default and help text: a flag that is not a field of the options is written down here."""
    _, stdout, _ = ibot("extract-features", "--help")
    flags = {word.strip("│") for word in stdout.split() if word.startswith("--")}
    fields = {"--" + name.replace("_", "-") for name in ExtractOptions.__dataclass_fields__}
    assert flags == fields | {"--model", "--out", "--network", "--json", "--help"}
