"""The catalogue in words, the default of every command."""

import json
from collections.abc import Callable

import pytest

from ibot_cli.models import DEFAULT, chosen_model
from ibot_hub import catalog

Ibot = Callable[..., tuple[int, str, str]]


def test_models_and_info_tell_programs_and_people_the_same(ibot: Ibot) -> None:
    code, stdout, _ = ibot("models", "vit_*")
    names = [line.split()[0] for line in stdout.splitlines()[1:]]
    assert code == 0
    assert "vit_b16_in22k" in names
    assert [entry["name"] for entry in json.loads(ibot("models", "vit_*", "--json")[1])] == names
    assert ibot("models", "zz*") == (1, "", "ibot: No model's name matches 'zz*'; `ibot models` lists all.\n")
    code, stdout, _ = ibot("info", "vit_b16")
    assert "734b9c49f46cd330d740f6c35d6a83517aab770a3efd86d7f1175ced582c9b7f" in stdout
    assert json.loads(ibot("info", "vit_b16", "--json")[1])["metrics"]["k-NN"] == 77.1


def test_the_model_that_ships_with_the_package(ibot: Ibot) -> None:
    code, stdout, _ = ibot("models", "tiny")
    assert code == 0
    assert "5 MB" in stdout
    _, stdout, _ = ibot("info", "tiny")
    entry = catalog.info("tiny")
    assert f"tiny.safetensors, backbone and head (5 MB), sha256 {entry.sha256['tiny.safetensors']}" in stdout
    assert json.loads(ibot("info", "tiny", "--json")[1])["embedded"] == "tiny.safetensors"


def test_the_default_is_named_with_its_limits_and_a_choice_is_not_commented(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen_model(None) == DEFAULT == catalog.list_models()[0]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"this is {DEFAULT}, the small model that ships with the package" in said.err
    assert "weak" in said.err
    assert "--model vit_b16" in said.err
    assert (chosen_model(DEFAULT), chosen_model("vit_s16")) == (DEFAULT, "vit_s16")
    assert capsys.readouterr().err == ""
