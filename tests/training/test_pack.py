"""What ships is the run's teacher, in half the bytes."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot_hub import weights
from ibot_hub.errors import WeightsError
from ibot_hub.hub.answers import check_answers
from ibot_hub.loading import load
from ibot_training import pack


@pytest.fixture
def run(golden: Path, tmp_path: Path) -> Path:
    """A run's folder with the teacher of the official code's small network."""
    (tmp_path / "run").mkdir()
    weights.save(weights.read(golden / "vit_micro_checkpoint.pth", "teacher"), tmp_path / "run" / "teacher.safetensors")
    return tmp_path / "run"


def test_the_file_is_the_teacher_in_float16(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    packed = pack.pack(run, file)
    theirs, ours = weights.read(run), weights.read(file)
    assert theirs.head is not None
    assert ours.head is not None
    assert (ours.mask_token, ours.origin) == (None, theirs.origin)
    for their, our in ((theirs.backbone, ours.backbone), (theirs.head, ours.head)):
        assert our.keys() == their.keys()
        assert all(torch.equal(our[name], their[name].half()) for name in our)
    content = file.read_bytes()
    assert (packed.size, packed.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert 0.9999 < packed.cosine < 1
    assert file.stat().st_mode & 0o444 == 0o444
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "small.safetensors", "small.answers.safetensors"}
    assert check_answers(load(file), tmp_path / "small.answers.safetensors") < 1e-5
    assert (tmp_path / "small.answers.safetensors").stat().st_mode & 0o444 == 0o444
    assert {parameter.dtype for parameter in load(file).parameters()} == {torch.float32}


def test_the_cosine_is_that_of_the_worst_token(run: Path, tmp_path: Path) -> None:
    """One number of the position table moves one patch alone."""
    held = weights.read(run)
    moved = dict(held.backbone) | {"pos_embed": held.backbone["pos_embed"].clone()}
    moved["pos_embed"][0, 1 + 17] += 10 * torch.randn(128, generator=torch.Generator().manual_seed(0))
    weights.save(replace(held, backbone=moved), tmp_path / "moved.safetensors")
    assert pack.least_cosine(run, run / "teacher.safetensors") == pytest.approx(1, abs=1e-6)
    assert pack.least_cosine(run, tmp_path / "moved.safetensors") < 0.9


def test_what_cannot_ship_leaves_the_file_as_it_was(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "small.safetensors"
    file.write_bytes(b"what was there")

    def refused(said: str) -> None:
        with pytest.raises(WeightsError, match=said):
            pack.pack(run, file)
        assert file.read_bytes() == b"what was there"
        assert {entry.name for entry in tmp_path.iterdir()} == {"run", "small.safetensors"}

    with monkeypatch.context() as patch:
        patch.setattr(pack, "MOST_BYTES", 1000)
        refused("run takes [0-9,]+ bytes in float16, more than 1,000; to ship, train a smaller")
    with monkeypatch.context() as patch:
        patch.setattr(pack, "LEAST_COSINE", 1.1)
        refused(r"a cosine of 1\.0000 with its own, below 1\.1")
    held = weights.read(run)
    wide = dict(held.backbone) | {"norm.weight": held.backbone["norm.weight"] * 1e6}
    weights.save(replace(held, backbone=wide), run / "teacher.safetensors")
    refused(r"tensor 'norm\.weight' holds numbers above 65504")
    weights.save(weights.Weights(held.backbone, None, None, held.origin), run / "teacher.safetensors")
    refused("holds no projection head")
    shutil.rmtree(run)
    with pytest.raises(SystemExit, match=r"pack: .*run does not exist"):
        pack.main([str(run), str(file)])


def test_the_command_says_what_the_catalogue_needs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.safetensors"
    pack.main([str(run), str(file)])
    assert hashlib.sha256(file.read_bytes()).hexdigest() in capsys.readouterr().out
