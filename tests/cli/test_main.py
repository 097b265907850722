"""The command as a person meets it: start-up, help, mistakes, interruption."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ibot_cli.main import main
from ibot_hub.features.table import open_features

Ibot = Callable[..., tuple[int, str, str]]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_hub.features.extraction", "ibot_hub.loading", "ibot_cli.main"])


def test_help_and_import_are_quick_and_do_not_load_torch() -> None:
    """Under 0.3 s of this process's own work; the best of three, because a busy machine also inflates that."""
    code = "{0}; import sys, time; print('torch' in sys.modules, time.process_time(), file=sys.stderr)"
    help_ = "import atexit, sys, time; sys.argv = ['ibot', '--help']; atexit.register(lambda: exec(report)); report = {0!r}"
    report = "print('torch' in sys.modules, time.process_time(), file=sys.stderr)"
    for script in (code.format("import ibot_hub"), help_.format(report) + "; from ibot_cli.main import main; main()"):
        runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split() for _ in range(3)]
        assert {loaded for loaded, _ in runs} == {"False"}, script
        assert min(float(seconds) for _, seconds in runs) < 0.3, script


def test_version(ibot: Ibot) -> None:
    assert ibot("--version") == (0, "ibot-hub 0.1.0\n", "")


def test_wrong_usage_exits_with_2(ibot: Ibot, checkpoint: str, photos: Path, tmp_path: Path) -> None:
    assert ibot("extract-features")[0] == 2  # no source
    assert ibot("extract-features", photos, "--model", checkpoint, "--resize", "stretch")[0] == 2
    assert ibot("no-such-command")[0] == 2
    code, _, said = ibot("extract-features", photos, "--model", checkpoint, "-o", tmp_path / "out", "--layers", "7")
    assert (code, said.splitlines()[-1]) == (2, "ibot: layers is 7; this model has 2 blocks.")


def test_a_mistake_is_one_sentence(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
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


def _main(words: list[str], stderr: Path) -> None:
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
        sys.argv = ["ibot", *words]
        main()


def test_ctrl_c_says_how_to_go_on(ibot: Ibot, photos: Path, checkpoint: str, tmp_path: Path) -> None:
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
