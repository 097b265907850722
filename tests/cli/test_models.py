"""The catalogue in words."""

import json
from collections.abc import Callable

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
