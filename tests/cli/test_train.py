"""`ibot train`: what it says, how it ends, and that torchrun starts it."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from PIL import Image

import ibot_hub
from ibot_cli.main import main
from ibot_training.checkpoint import latest, load, locked
from tests.hub_server import OWNER, HubServer

Ibot = Callable[..., tuple[int, str, str]]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ibot_training.loop", "sklearn.metrics", "torch.utils.tensorboard", "ibot_cli.main"])
CPU = ("--device", "cpu", "--set", 'run.precision="float32"')


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other at every small tensor cost four times the work, where others use the machine too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight small images, one batch of the recipe `smoke`."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (50 + number, 40), (20 * number, 100, 200)).save(folder / f"{number}.png")
    return folder


def test_smoke_ends_with_a_model(ibot: Ibot, photos: Path, tmp_path: Path) -> None:
    """The command of the README."""
    out, began = tmp_path / "run", time.perf_counter()
    code, stdout, stderr = ibot("train", "smoke", "--data", photos, "--out", out, "--device", "cpu")
    assert (code, stdout) == (0, ""), stderr
    assert time.perf_counter() - began < 120
    assert f'-> {out}; ibot_hub.load("{out}") opens it' in stderr.splitlines()[-1]
    assert "20 steps, loss" in stderr.splitlines()[-1]
    for network in (None, "student"):
        model = ibot_hub.load(out, network=network)
        assert model.card.network == (network or "teacher")
        tokens = model(photos / "coffee.jpg")
        assert tokens.patches.shape == (1, 4, 4, 64)
        assert tokens.cls.isfinite().all()
        assert tokens.patches.isfinite().all()
        assert model.pattern_ids(photos / "coffee.jpg").ids.max() < 64


def test_recipes_are_listed_and_shown(ibot: Ibot) -> None:
    code, stdout, stderr = ibot("train", "--list")
    names = [line.split()[0] for line in stdout.splitlines()[1:]]
    assert (code, stderr) == (0, "")
    assert {"vit_s16", "vit_b16", "swin_t7", "dino", "mim_only", "tiny", "smoke"} <= set(names)
    for name in names:
        assert ibot("train", name, "--show")[0] == 0
    _, stdout, _ = ibot("train", "vit_s16", "--show")
    assert "epochs = 800 " in stdout
    assert "3069 effective epochs" in stdout


def test_numbers_are_set(ibot: Ibot) -> None:
    code, stdout, _ = ibot("train", "smoke", "--show", "--set", "loss.hard_labels=true", "--set", "optimiser.lr=1e-3")
    assert code == 0
    assert "hard_labels = true" in stdout
    assert "lr = 0.001 " in stdout


def assert_told(answer: tuple[int, str, str], code: int, said: str) -> None:
    """One sentence, and that exit code."""
    assert (answer[0], answer[1]) == (code, "")
    assert "Traceback" not in answer[2]
    (sentence,) = [line for line in answer[2].splitlines() if line.startswith("ibot: ")]
    assert said in sentence


def test_a_mistake_is_one_sentence(ibot: Ibot, pictures: Path, tmp_path: Path) -> None:
    out, empty, words = tmp_path / "run", tmp_path / "empty", tmp_path / "words.toml"
    empty.mkdir()
    words.write_text("[optimiser]\nbatch_size = 4\nepoches = 3\n")
    base = ("train", "smoke", *CPU, "--out", out, "--data")
    for command, code, said in (
        (("train",), 2, "`ibot train --list` lists them"),
        (("train", "--from", "tiny"), 2, "--data"),
        (("train", "--from", "tiny", "--data", pictures), 2, "tiny comes without a recipe; name one"),
        (("train", "--from", "hf-hub:a/b/c", "--data", pictures), 1, "'a/b/c' is no name of a repository"),
        (("train", "smoke"), 2, "--data"),
        (("train", "smok", "--show"), 2, "did you mean smoke"),
        (("train", words, "--data", pictures), 2, "a recipe has no optimiser.epoches; did you mean optimiser.epochs?"),
        ((*base, pictures, "--set", "optimiser.epochs=many"), 2, "optimiser.epochs"),
        ((*base, pictures, "--set", "optimiser.epochs=0"), 2, "optimiser.epochs is 0; it must be at least 1"),
        ((*base, pictures, "--set", "optimiser.speed=3"), 2, "a recipe has no optimiser.speed"),
        ((*base, tmp_path / "nowhere"), 1, "nowhere"),
        ((*base, empty), 1, "empty"),
        (
            (*base, pictures, "--set", "optimiser.batch_size=9", "--out", tmp_path / "few"),
            1,
            "There are 8 images, too few for a batch of 9",
        ),
        ((*base, pictures, "--out", words), 1, "words.toml cannot be locked"),
    ):
        assert_told(ibot(*command), code, said)
    assert not (out / "checkpoints").exists()


def test_a_run_goes_on_with_what_it_began_with(ibot: Ibot, pictures: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    base = ("train", "smoke", *CPU, "--set", "optimiser.epochs=2", "--out", out)
    assert ibot(*base, "--data", pictures)[0] == 0
    assert_told(ibot(*base, "--data", photos), 1, f"has the images of {pictures}, not of {photos}")
    assert_told(ibot(*base, "--data", pictures, "--set", "loss.cls_weight=2"), 1, f"go on with its own recipe, {out / 'recipe.toml'}")
    with locked(out):
        assert_told(ibot(*base, "--data", pictures), 1, "is being written by another run; wait for its end, or choose another --out.")
    code, _, stderr = ibot("train", out / "recipe.toml", "--data", pictures, "--out", out, "--device", "cpu")
    assert code == 0, stderr


@pytest.mark.filterwarnings("ignore:Use 'content=")  # huggingface_hub 2.4 sends large files in a way that its own httpx2 finds outdated
def test_a_run_is_pushed_and_others_go_on_from_it(
    ibot: Ibot, hub_here: HubServer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a recipe its own is taken; in the words of its card."""
    monkeypatch.setenv("HF_TOKEN", OWNER)
    run = tmp_path / "run"
    assert ibot("train", "smoke", *CPU, "--set", "optimiser.epochs=2", "--data", pictures, "--out", run)[0] == 0
    code, stdout, stderr = ibot("push", run, "org/run", "--with-training-state")
    assert (code, stdout) == (0, f"{hub_here.url}/org/run\n"), stderr
    assert "training/state.safetensors: " in stderr
    (title,) = [commit.title for commit in hub_here.repositories["org/run"].commits[1:]]
    assert title == "Published with ibot-hub"
    words = ("train", "--from", "hf-hub:org/run", "--data", pictures, "--device", "cpu", "--out", tmp_path / "mine")
    assert_told(ibot(*words), 1, "hf-hub:org/run was trained to its end, step 2 of 2")
    code, stdout, stderr = ibot(*words, "--set", "optimiser.epochs=3")
    assert (code, stdout) == (0, ""), stderr
    assert "after step 2; the steps begin at 0, because optimiser.epochs is 3 and was 2" in stderr
    assert "3 steps, loss" in stderr
    code, _, stderr = ibot(*words)  # by the recipe of the run that is there
    assert (code, "3 steps, was finished before" in stderr) == (0, True)
    code, stdout, _ = ibot("train", "--from", "hf-hub:org/run", "--show", "--out", tmp_path / "new")
    assert (code, "epochs = 2 " in stdout, (tmp_path / "new").exists()) == (0, True, False)
    assert_told(ibot("train", "vit_s16", *words[1:-1], tmp_path / "new"), 1, "hf-hub:org/run has network.image_size=64, ")
    assert ibot("push", run, "org/run")[0] == 0
    assert_told(ibot(*words[:-1], tmp_path / "new"), 1, "hf-hub:org/run has no training state, only config.json, ")
    # the model alone, which has no recipe beside it
    folder = ibot("download", "hf-hub:org/run")[1].strip()
    words = ("train", "--from", folder, "--data", pictures, "--device", "cpu", "--out", tmp_path / "new")
    assert_told(ibot(*words), 2, f"{folder} comes without a recipe; name one for its network: `ibot train --list` lists them.")
    code, _, stderr = ibot("train", "smoke", *words[1:], "--set", "optimiser.epochs=1")
    assert (code, "the teacher alone, so student and teacher both begin as it" in stderr) == (0, True)


def test_numbers_that_explode_stop_the_run(ibot: Ibot, pictures: Path, tmp_path: Path) -> None:
    answer = ibot(
        "train", "smoke", *CPU, "--data", pictures, "--out", tmp_path / "run", "--set", "optimiser.lr=1e30", "--set", "run.save_every=1.0"
    )
    assert_told(answer, 1, "The loss of step 3 is nan")
    assert latest(tmp_path / "run", pytest.fail)


def test_broken_images_are_told(ibot: Ibot, pictures: Path, tmp_path: Path) -> None:
    (pictures / "8.png").write_bytes(b"no image")
    code, _, stderr = ibot("train", "smoke", *CPU, "--set", "optimiser.epochs=3", "--data", pictures, "--out", tmp_path / "run")
    assert code == 0
    assert "skipped images: 1" in stderr
    assert json.loads((tmp_path / "run" / "skipped.jsonl").read_text())["name"] == "8.png"


# in processes of their own


def _main(words: list[str], stderr: Path, most: int | None) -> None:
    torch.set_num_threads(1)
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
        if most:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        sys.argv = ["ibot", *words]
        main()


def started(words: tuple[str | Path, ...], stderr: Path, most: int | None = None) -> ForkServerProcess:
    """The command; `most`: bytes that a file may have."""
    process = PROCESSES.Process(target=_main, args=([str(word) for word in words], stderr, most))
    process.start()
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(ibot: Ibot, pictures: Path, tmp_path: Path, number: int, code: int) -> None:
    out, log = tmp_path / "run", tmp_path / "stderr"
    words = ("train", "smoke", *CPU, "--set", "optimiser.epochs=40", "--data", pictures, "--out", out)
    process = started(words, log)
    while not (out / "metrics.jsonl").exists():
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    os.kill(process.pid or 0, number)
    process.join()
    said = log.read_text()
    path = latest(out, pytest.fail)
    assert path
    step = int(path.name.removeprefix("step-"))
    assert step < 40
    assert_told(
        (process.exitcode or 0, "", said), code, f"stopped after step {step} of 40; all is saved in {out}, and the same command goes on."
    )
    assert f"going on after step {step}" in ibot(*words)[2]
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
    starts = [json.loads(line) for line in (out / "starts.jsonl").read_text().splitlines()]
    assert starts[0]["command"].startswith("ibot train smoke --device cpu")
    assert len(starts) == 2


@pytest.mark.parametrize(("most", "said"), [(1000, "free space"), (100_000, "run the same command again to go on")])
def test_a_full_disk_is_told_and_the_run_can_go_on(ibot: Ibot, pictures: Path, tmp_path: Path, most: int, said: str) -> None:
    """A limit on the size of files stands for it, of the recipe or of a checkpoint: the system refuses to write in the same way."""
    out, log = tmp_path / "run", tmp_path / "stderr"
    words = ("train", "smoke", *CPU, "--set", "optimiser.epochs=4", "--set", "run.save_every=2.0", "--data", pictures, "--out", out)
    process = started(words, log, most)
    process.join()
    assert_told((process.exitcode or 0, "", log.read_text()), 1, f"{out} cannot be written (")
    assert said in log.read_text()
    assert not (out / "checkpoints").exists()
    assert ibot(*words)[0] == 0
    assert latest(out, pytest.fail) == out / "checkpoints" / "step-00000004"


# under torchrun


def torchrun(*words: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ibot_cli.main"]
    return subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_torchrun_trains_with_two_processes(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun("train", "smoke", *CPU, "--set", "optimiser.epochs=3", "--data", pictures, "--out", out)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert json.loads((out / "starts.jsonl").read_text())["processes"] == 2
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert "3 steps, loss" in stderr
    assert ibot_hub.load(out).head is not None


@pytest.mark.long
def test_torchrun_goes_on_from_another_run(ibot: Ibot, pictures: Path, tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "run"
    assert ibot("train", "smoke", *CPU, "--set", "optimiser.epochs=2", "--data", pictures, "--out", first)[0] == 0
    process = torchrun("train", "--from", first, "--device", "cpu", "--set", "optimiser.epochs=3", "--data", pictures, "--out", out)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    path = latest(out, pytest.fail)
    assert path
    assert load(path).step == 3
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert stderr.count("after step 2; the steps begin at 0, because optimiser.epochs is 3 and was 2") == 1


@pytest.mark.long
def test_torchrun_ends_with_the_error_of_one(pictures: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        process = torchrun("train", "smoke", *CPU, "--data", pictures, "--out", tmp_path / "run")
        _, stderr = process.communicate()
    assert process.returncode == 1
    assert [line.partition("/run")[2] for line in stderr.splitlines() if line.startswith("ibot: ")] == [
        " is being written by another run; wait for its end, or choose another --out."
    ]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_passes_a_signal_on(ibot: Ibot, pictures: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    words = ("train", "smoke", *CPU, "--set", "optimiser.epochs=150", "--data", pictures, "--out", out)
    process = torchrun(*words)
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode != 0
    assert stderr.count("all is saved in") == 1
    assert latest(out, pytest.fail)
    assert ibot(*words)[0] == 0
