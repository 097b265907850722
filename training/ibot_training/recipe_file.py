"""Recipes as TOML files, which are read strictly."""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ibot_hub.errors import UsageError
from ibot_training.recipe import Recipe
from ibot_training.recipe_check import check

HEADINGS: Mapping[str, Any] = {"base": str, "name": str, "summary": str, "notes": str, "inferred": tuple[str, ...]}
SECTIONS: Mapping[str, tuple[Field[Any], ...]] = {
    section.name: fields(section.default) for section in fields(Recipe) if is_dataclass(section.default)
}
KEYS: Mapping[str, Field[Any]] = {f"{section}.{field.name}": field for section, numbers in SECTIONS.items() for field in numbers}


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that file, with `settings` over it.

    A file holds what differs from the defaults, or from the recipe that its `base` names. What was inferred for that one stays
    marked so, unless the file or a setting says it anew.

    Args:
        name_or_path: a name that `list_recipes` has, or the path of a file that ends in .toml, such as the recipe.toml of a run.
        settings: lines `section.key=value`; the value is TOML, or one bare word.

    Raises:
        UsageError: no such recipe or file; a section, key or type that a recipe does not have; numbers that `check` refuses.
    """
    recipe = _read(name_or_path)
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UsageError(f"--set {setting}: a setting is section.key=value, such as optimiser.epochs=100.")
        recipe = _with(recipe, {key: _parsed(value)}, f"--set {setting}")
    check(recipe)
    return recipe


def list_recipes() -> list[Recipe]:
    """The recipes that have a name, in the order of their names."""
    return [load_recipe(name) for name in _names()]


def to_toml(recipe: Recipe) -> str:
    """All of `recipe`, each number with its meaning, as a file that `load_recipe` reads back as an equal recipe.

    Comments say what the default is where a number differs from it, and which numbers are inferred.
    """
    lines = [
        f"# {recipe.effective_epochs:.0f} effective epochs (Appendix B)",
        "# (default ...): what ViT-S/16 has there; (inferred): no source states the number for this run",
        *(f"{heading} = {_toml(getattr(recipe, heading))}" for heading in ("name", "summary", "notes")),
        "inferred = [" + "".join(f"\n    {_toml(key)}," for key in recipe.inferred) + ("\n]" if recipe.inferred else "]"),
    ]
    for section, numbers in SECTIONS.items():
        lines += ["", f"[{section}]"]
        rows = []
        for field in numbers:
            value = getattr(getattr(recipe, section), field.name)
            remarks = [f"default {_toml(field.default)}"] * (value != field.default)
            remarks += ["inferred"] * (f"{section}.{field.name}" in recipe.inferred)
            rows.append((f"{field.name} = {_toml(value)}", field.metadata["meaning"] + (f" ({'; '.join(remarks)})" if remarks else "")))
        width = max(len(assignment) for assignment, _ in rows)
        lines += [f"{assignment:<{width}}  # {comment}" for assignment, comment in rows]
    return "\n".join(lines) + "\n"


def _names() -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in resources.files("ibot_training").joinpath("recipes").iterdir())


def _read(name_or_path: str) -> Recipe:
    """The recipe before it is checked."""
    document = _document(name_or_path)
    values: dict[str, Any] = {}
    headings: dict[str, Any] = {}
    for key, value in document.items():
        if key in HEADINGS:
            headings[key] = _typed(value, HEADINGS[key], key, name_or_path)
        elif key in SECTIONS and isinstance(value, dict):
            values |= {f"{key}.{name}": number for name, number in value.items()}
        elif key in SECTIONS:
            raise UsageError(f"{name_or_path}: {key} is {_toml(value)}; it must be a section, [{key}].")
        else:
            raise _unknown(key, name_or_path)
    base = headings.pop("base", None)
    if base is not None and base.endswith(".toml"):
        raise UsageError(f"{name_or_path}: base is {_toml(base)}; it must be the name of a recipe, not a file.")
    recipe = _with(Recipe(name="") if base is None else _read(base), values, name_or_path)
    for key in headings.get("inferred", ()):
        if key not in KEYS:
            raise _unknown(key, f"{name_or_path}: inferred")
    headings["inferred"] = tuple(dict.fromkeys((*recipe.inferred, *headings.get("inferred", ()))))
    return replace(recipe, **{"name": Path(name_or_path).stem, "summary": "", "notes": ""} | headings)


def _document(name_or_path: str) -> dict[str, Any]:
    if name_or_path.endswith(".toml"):
        source: Any = Path(name_or_path)
    elif name_or_path in _names():
        source = resources.files("ibot_training").joinpath("recipes", f"{name_or_path}.toml")
    else:
        near = " or ".join(difflib.get_close_matches(name_or_path, _names(), cutoff=0.5))
        hint = f"did you mean {near}? " if near else ""
        raise UsageError(
            f"No recipe is called {name_or_path}: {hint}`ibot train --list` lists all; a file is given by its path, which ends in .toml."
        )
    try:
        return tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"Cannot read the recipe {name_or_path}: {(error.strerror or str(error)).lower()}.") from error
    except ValueError as error:
        raise UsageError(f"The recipe {name_or_path} is not TOML: {error}.") from error


def _parsed(text: str) -> Any:
    """The value of a setting; what is not TOML is a bare word, and fails by its type if it should have been more."""
    try:
        document = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return document["value"] if len(document) == 1 else text


def _with(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    """`recipe` with the numbers `values`, by their keys; these are inferred no more."""
    for key, value in values.items():
        if key not in KEYS:
            raise _unknown(key, where)
        section, name = key.split(".")
        number = _typed(value, KEYS[key].type, key, where, KEYS[key].default)
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **{name: number})})
    return replace(recipe, inferred=tuple(key for key in recipe.inferred if key not in values))


def _typed(value: Any, kind: Any, key: str, where: str, example: object = None) -> Any:
    """`value`, as tomllib gives it, as the dataclasses want it: tuples for lists, a float for a whole number."""
    number = _converted(value, kind)
    if number is not None:
        return number
    such_as = "" if example is None or kind is bool or get_origin(kind) is Literal else f", such as {_toml(example)}"
    raise UsageError(f"{where}: {key} is {_toml(value)}; it must be {_described(kind)}{such_as}.")


def _converted(value: Any, kind: Any) -> Any:
    """`value` as a `kind`; None if it is none."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            return None
        kinds = _element_kinds(kind, len(value))
        elements = tuple(_converted(element, one) for element, one in zip(value, kinds, strict=False))
        return elements if len(kinds) == len(value) and None not in elements else None
    if kind is float and type(value) in (int, float):
        return float(value) if math.isfinite(value) else None
    return value if type(value) is kind else None  # a bool is an int to isinstance


def _element_kinds(kind: Any, count: int) -> tuple[Any, ...]:
    kinds = get_args(kind)
    return (kinds[0],) * count if kinds[-1] is ... else kinds


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(_toml(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        plural = {int: "whole numbers", float: "numbers", str: "texts"}[kinds[0]]
        return f"a list of {plural}" if kinds[-1] is ... else f"a list of {len(kinds)} {plural}"
    return {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}[kind]


def _unknown(key: str, where: str) -> UsageError:
    """What to say of a key that no recipe has: the same name in its right section, else names like it."""
    section, _, name = key.rpartition(".")
    headings = [] if section else difflib.get_close_matches(key, [*HEADINGS, *SECTIONS], n=1)
    same = [known for known in KEYS if known.endswith(f".{name}")]
    beside = [f"{section}.{near}" for near in difflib.get_close_matches(name, [field.name for field in SECTIONS.get(section, ())], n=1)]
    anywhere = difflib.get_close_matches(key, KEYS, n=1)
    near = " or ".join(headings or same or beside or anywhere)
    hint = f"did you mean {near}?" if near else "`ibot train --show vit_s16` shows all there is."
    return UsageError(f"{where}: a recipe has no {key}; {hint}")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(element) for element in value)}]"
    return str(value)
