"""The command as a person meets it: start-up, help, mistakes, interruption."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ibot_cli.main import app, main
from ibot_hub.features import open_features
from ibot_hub.options import ExtractOptions

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_hub.extraction", "ibot_hub.loading", "ibot_cli.main"])


@pytest.fixture
def checkpoint(golden: Path) -> str:
    return str(golden / "vit_micro_checkpoint.pth")


def ibot(*words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error, on one line each space."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_and_import_do_not_load_torch() -> None:
    """Both are to take under 0.3 s; the limit here leaves room for a busy machine, since what costs seconds is torch."""
    code = (
        "import sys, time; start = time.perf_counter(); import {0}; took = time.perf_counter() - start; print('torch' in sys.modules, took)"
    )
    for module in ("ibot_hub", "ibot_cli.main"):
        loaded, seconds = subprocess.run(
            [sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert loaded == "False", module
        assert float(seconds) < 1.0
    assert ibot("--help")[0] == 0


def test_version() -> None:
    assert ibot("--version") == (0, "ibot-hub 0.1.0\n", "")


def test_wrong_usage_exits_with_2(checkpoint: str, photos: Path, tmp_path: Path) -> None:
    assert ibot("extract-features", photos)[0] == 2  # no model
    assert ibot("extract-features", photos, "--model", checkpoint, "--resize", "stretch")[0] == 2
    assert ibot("no-such-command")[0] == 2
    code, _, said = ibot("extract-features", photos, "--model", checkpoint, "-o", tmp_path / "out", "--layers", "7")
    assert (code, said.splitlines()[-1]) == (2, "ibot: layers is 7; this model has 2 blocks.")


def test_a_mistake_is_one_sentence(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    for words, said in (
        (("info", "vit_s61"), "did you mean vit_s16"),
        (("extract-features", photos, "--model", "vit_nope"), "No model is called 'vit_nope'"),
        (("extract-features", photos, "--model", str(tmp_path)), "has no config.json"),
        (("extract-features", tmp_path / "missing", "--model", checkpoint, "-o", tmp_path / "out"), "There is no"),
        (("extract-features", photos, "--model", checkpoint, "-o", Path(__file__)), "is a file; choose another --out"),
    ):
        code, stdout, stderr = ibot(*words)
        assert (code, stdout) == (1, "")
        assert "Traceback" not in stderr
        assert said in stderr.splitlines()[-1]
        assert stderr.splitlines()[-1].startswith("ibot: ")


def test_models_and_info_tell_programs_and_people_the_same() -> None:
    code, stdout, _ = ibot("models", "vit_*")
    names = [line.split()[0] for line in stdout.splitlines()[1:]]
    assert code == 0
    assert "vit_b16_in22k" in names
    assert [entry["name"] for entry in json.loads(ibot("models", "vit_*", "--json")[1])] == names
    code, stdout, _ = ibot("info", "vit_b16")
    assert "734b9c49f46cd330d740f6c35d6a83517aab770a3efd86d7f1175ced582c9b7f" in stdout
    assert json.loads(ibot("info", "vit_b16", "--json")[1])["metrics"]["k-NN"] == 77.1


def test_extract_features(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    code, stdout, stderr = ibot(
        "extract-features", photos, "-o", tmp_path / "out", "--model", checkpoint, "--limit", "3", "--device", "cpu"
    )
    assert (code, stdout) == (0, "")
    assert "teacher network" in stderr
    assert "3 of 3 images" in stderr
    assert open_features(tmp_path / "out").feature.shape == (3, 128)
    options = ("--model", checkpoint, "--network", "student", "--tokens", "both", "--json", "--mean", "0.5", "0.5", "0.5")
    code, stdout, _ = ibot("extract-features", photos / "coffee.jpg", "-o", tmp_path / "both", *options)
    facts = json.loads(stdout)
    assert (code, facts["images"], facts["failed"], facts["network"]) == (0, 1, 0, "student")
    assert facts["columns"] == {"feature": [128], "patches": [14, 14, 128]}
    assert open_features(tmp_path / "both").manifest.preprocessing["mean"] == [0.5, 0.5, 0.5]


def test_exit_codes_of_broken_images(checkpoint: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "broken.jpg").write_bytes(b"")
    base = ("extract-features", source, "--model", checkpoint)
    code, _, stderr = ibot(*base, "-o", tmp_path / "all")
    assert (code, "1 images could not be read" in stderr) == (1, True)
    Image.new("RGB", (50, 40)).save(source / "good.png")
    assert ibot(*base, "-o", tmp_path / "some")[0] == 0
    assert ibot(*base, "-o", tmp_path / "some", "--strict")[0] == 1


def test_the_options_of_the_command_are_those_of_the_library() -> None:
    """One place for every default and help text: a flag that is not a field of the options is written down here."""
    _, stdout, _ = ibot("extract-features", "--help")
    flags = {word.strip("│") for word in stdout.split() if word.startswith("--")}
    fields = {"--" + name.replace("_", "-") for name in ExtractOptions.__dataclass_fields__}
    assert flags == fields | {"--model", "--out", "--network", "--json", "--help"}


def _main(words: list[str], stderr: Path) -> None:
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
        sys.argv = ["ibot", *words]
        main()


def test_ctrl_c_says_how_to_go_on(photos: Path, checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["extract-features", str(photos), "-o", str(out), "--model", checkpoint, "--shard-size", "1", "--size", "448"]
    process = PROCESSES.Process(target=_main, args=(words, tmp_path / "stderr"))
    process.start()
    while not list(out.glob("shard-*")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    said = (tmp_path / "stderr").read_text()
    assert process.exitcode == 130
    assert "interrupted" in said
    assert f"16 shards are whole in {out}; the same command goes on from there." in said
    assert "Traceback" not in said
    assert ibot(*words)[0] == 0
    assert len(open_features(out)) == 16


def test_doctor_tells_what_is_fast() -> None:
    code, stdout, _ = ibot("doctor")
    assert code == 0
    for word in ("torch", "GFLOP/s", "--dtype auto is", "cache", "extra transformers"):
        assert word in stdout
