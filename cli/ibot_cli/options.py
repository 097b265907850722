"""An options dataclass of the library -> the options of a command, so that a default stands in one place."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer


def options_from(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command's last parameter, `options`, becomes one command-line option for each field of the dataclass.

    The help of an option and its smallest value are the field's own; an underscore is written as a hyphen.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = dataclasses.fields(options)
        hints = get_type_hints(options)
        own = [parameter for name, parameter in inspect.signature(command, eval_str=True).parameters.items() if name != "options"]

        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            chosen = {field.name: values.pop(field.name) for field in fields}
            command(**values, options=options(**chosen))

        with_options.__signature__ = inspect.Signature([*own, *(_parameter(field, hints[field.name]) for field in fields)])  # type: ignore[attr-defined]
        return with_options

    return decorate


def _parameter(field: "dataclasses.Field[Any]", hint: Any) -> inspect.Parameter:
    flag = "--" + field.name.replace("_", "-")
    metavar = "R G B" if "tuple" in str(hint) else None  # three words, one a channel
    meta = field.metadata
    option = typer.Option(flag, metavar=metavar, help=meta["help"], min=meta["minimum"], show_default=field.default is not None)
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=Annotated[hint, option])
