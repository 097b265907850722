"""What verify finds that loading does not look for, and what it says of what it cannot check."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ibot_hub import catalog, loading, weights
from ibot_hub.catalog import info
from ibot_hub.errors import DownloadError, UnknownModelError, WeightsError
from ibot_hub.formats.exporting import export
from ibot_hub.hub import verify as module
from ibot_hub.hub.places import digests_file, model_folder, repository_folder
from ibot_hub.hub.publish import write_repository
from ibot_hub.hub.repositories import fetch_repository
from ibot_hub.hub.verify import Check, Verification, verify
from ibot_hub.loading import load
from ibot_hub.options import PushOptions
from tests.hub_server import HubServer


def made(verification: Verification) -> dict[tuple[str, str], bool | None]:
    return {(check.what, check.file): check.passed for check in verification.checks}


def failure(verification: Verification) -> Check:
    """The only one."""
    (check,) = verification.failures
    assert not verification.passed
    return check


def silently(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Other bytes of the same number under the old time: loading does not look further."""
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def with_another_bit(body: bytes) -> bytes:
    """The last of the last number's digits, which no answer shows."""
    return body[:-4] + bytes([body[-4] ^ 1]) + body[-3:]


# the model that ships with the package


def test_the_embedded_model_is_whole_and_answers_as_it_did() -> None:
    verification = verify("tiny")
    assert verification.passed
    assert made(verification) == {
        ("sha256", "tiny.safetensors"): True, ("tensors", "tiny.safetensors"): True, ("answers", "tiny.answers.safetensors"): True,
    }  # fmt: skip
    assert verification.card == load("tiny").card
    assert verification.head
    digest, tensors, answers = (check.said for check in verification.checks)
    assert digest == f"{info('tiny').sha256['tiny.safetensors']}, as in the catalogue"
    assert tensors == "62 tensors, each with its place in a ViT-192x4/8 and a head of 1024 patterns, all finite"
    assert answers.endswith("apart at most, of 0.001 allowed")


def test_an_embedded_file_that_is_another_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "info", lambda name: replace(info(name), sha256={"tiny.safetensors": "0" * 64}))
    assert failure(verify("tiny")).said.endswith(
        "is not the file that ibot-hub ships; install it again: pip install --force-reinstall ibot-hub."
    )


# names of the catalogue


@pytest.fixture
def mirror(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official files of `vit_s16`, which is a small network here, and an empty cache."""
    full, folder = golden / "vit_micro_checkpoint.pth", tmp_path / "mirror" / "vits_16"
    monkeypatch.setattr(catalog, "CATALOG", tuple(replace(entry, arch="ViT-128x2/16", patterns=96) for entry in catalog.CATALOG))
    monkeypatch.setenv("IBOT_HUB_MIRROR", str(folder.parent))
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "cache"))
    folder.mkdir(parents=True)
    shutil.copy(full, folder)
    (folder / full.name).rename(folder / "checkpoint.pth")
    torch.save({"state_dict": dict(weights.read(full, "teacher").backbone)}, folder / "checkpoint_teacher.pth")
    return folder


def test_what_is_not_in_the_cache_is_not_fetched(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=rf"vit_s16 is not in the cache {tmp_path / 'cache'}; `ibot download vit_s16` fetches it\.$"):
        verify("vit_s16")
    load("vit_s16")
    with pytest.raises(DownloadError, match="`ibot download vit_s16 --network student --head` fetches it"):
        verify("vit_s16", network="student", head=True)
    with pytest.raises(UnknownModelError, match="did you mean vit_s16"):
        verify("vit_s61")


def test_a_file_of_the_cache_is_checked_in_full(mirror: Path) -> None:
    load("vit_s16")
    verification = verify("vit_s16")
    assert verification.passed
    assert made(verification) == {
        ("sha256", "teacher.safetensors"): True, ("original", "checkpoint_teacher.pth"): None,
        ("tensors", "teacher.safetensors"): True, ("answers", "teacher.answers.safetensors"): None,
    }  # fmt: skip
    digest = hashlib.sha256((mirror / "checkpoint_teacher.pth").read_bytes()).hexdigest()
    assert verification.checks[1].said == f"{digest}, recorded at first use; the catalogue knows none"
    assert verification.checks[3].said.startswith("none are stored with it")
    assert (verification.head, verification.card and verification.card.network) == (False, "teacher")
    load("vit_s16", head=True)
    assert verify("vit_s16").path.name == "teacher-head.safetensors"  # what loading takes now
    assert verify("vit_s16", head=False).head is False


def test_what_loading_does_not_see_is_found(mirror: Path) -> None:
    load("vit_s16")
    path = model_folder("vit_s16") / "teacher.safetensors"
    whole = path.read_bytes()
    silently(path, with_another_bit)
    load("vit_s16")
    said = failure(verify("vit_s16")).said
    assert "as when it came into the cache (its tensor table is the same); `ibot cache clear vit_s16`, then `ibot download vit_s16`" in said
    silently(path, lambda body: body[:-4] + b"\x00\x00\x80\x7f")  # infinity
    load("vit_s16")
    checks = verify("vit_s16").failures
    assert [check.what for check in checks] == ["sha256", "tensors"]
    assert "holds NaN or infinite values" in checks[1].said
    silently(path, lambda _: whole.replace(b"backbone.cls_token", b"backbone.cls_tokem", 1))
    checks = verify("vit_s16").failures
    assert "its tensor table is another too" in checks[0].said
    assert "1 missing (cls_token); 1 left over (cls_tokem)" in checks[1].said
    assert verify("vit_s16").card is None


def test_an_original_is_held_against_the_catalogue_else_against_its_first_use(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("vit_s16")
    file = mirror / "checkpoint_teacher.pth"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    remembered = digests_file("vit_s16")
    remembered.write_text(json.dumps({file.name: "1" * 64}))
    said = failure(verify("vit_s16")).said
    assert said.startswith(
        f"{file.name}, of which vit_s16 was made, had the sha256 {digest}, not {'1' * 64} as at its first use; `ibot cache"
    )
    remembered.unlink()
    assert made(verify("vit_s16"))["original", file.name] is None
    for known, passed in ((digest, True), ("2" * 64, False)):  # a later version of the package knows it
        monkeypatch.setattr(loading, "info", lambda name, known=known: replace(info(name), sha256={file.name: known}))
        assert made(verify("vit_s16"))["original", file.name] is passed
    assert f"not {'2' * 64} as in the catalogue" in failure(verify("vit_s16")).said


# files and folders


def test_a_file_from_anywhere_has_nothing_to_be_held_against(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = golden / "vit_micro_checkpoint.pth"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    verification = verify(file, network="student")
    assert verification.passed
    assert made(verification) == {
        ("sha256", file.name): None, ("tensors", file.name): True, ("answers", "vit_micro_checkpoint.answers.safetensors"): None,
    }  # fmt: skip
    assert verification.checks[0].said == f"{digest}, with which there is nothing to compare"
    assert verification.card
    assert verification.card.network == "student"
    monkeypatch.setattr(module, "CATALOG", (replace(info("vit_b16"), sha256={"checkpoint.pth": digest}),))
    assert verify(str(file)).checks[0] == Check("sha256", file.name, True, f"{digest}, vit_b16's checkpoint.pth in the catalogue")
    with pytest.raises(WeightsError, match="nowhere does not exist; give a file"):
        verify(Path("nowhere"))


@pytest.mark.parametrize("format", ["timm", "official"])
def test_an_export_answers_as_when_it_was_written(golden: Path, tmp_path: Path, format: str) -> None:
    out = export(load(golden / "vit_micro_checkpoint.pth"), tmp_path / "out", format)  # type: ignore[arg-type]
    verification = verify(str(out))
    assert verification.passed
    names = {"timm": {"model.safetensors", "ibot.safetensors"}, "official": {"checkpoint.pth", "checkpoint_teacher.pth"}}[format]
    assert made(verification) == {
        **{("sha256", name): None for name in names}, ("tensors", "out"): True, ("answers", "answers.safetensors"): True,
    }  # fmt: skip


def test_answers_that_changed_and_a_model_that_cannot_be_asked(golden: Path, tmp_path: Path) -> None:
    out = export(load(golden / "vit_micro_checkpoint.pth"), tmp_path / "out", "timm")
    file = out / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"norm.bias": tensors["norm.bias"] + 0.1}, file, {"format": "pt"})
    assert "answers.safetensors: the model now answers" in failure(verify(out)).said
    save_file({name: tensor for name, tensor in tensors.items() if name != "norm.bias"}, file, {"format": "pt"})
    verification = verify(out)
    assert failure(verification).what == "tensors"
    assert verification.checks[-1] == Check("answers", "answers.safetensors", None, "nothing could be asked, for there is no model")


# repositories


FILES = ("config.json", "model.safetensors", "ibot.safetensors", "answers.safetensors")


@pytest.fixture
def pushed(hub_here: HubServer, golden: Path, tmp_path: Path) -> HubServer:
    """A hub with a repository as `push` writes it."""
    folder = tmp_path / "written"
    folder.mkdir()
    write_repository(load(golden / "vit_micro_checkpoint.pth", head=True), "org/micro", folder, None, PushOptions())
    hub_here.repository("org/micro", {file.name: file.read_bytes() for file in folder.iterdir()})
    return hub_here


def test_a_repository_is_held_against_the_hub_and_its_first_use(pushed: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match="`ibot download hf-hub:org/micro` fetches it"):
        verify("hf-hub:org/micro")
    assert pushed.requests == []
    folder = fetch_repository("org/micro")
    pushed.requests.clear()
    for name in ("hf-hub:org/micro", f"hf-hub:org/micro@{folder.name}"):
        verification = verify(name)
        assert verification.passed
        assert verification.path == folder
        assert made(verification) == {
            **{("sha256", file): True for file in FILES}, ("tensors", folder.name): True, ("answers", "answers.safetensors"): True,
        }  # fmt: skip
        assert verification.checks[1].said.endswith(", as the hub says and as recorded at first use")
        assert verification.checks[0].said.endswith(", as the hub says")
    monkeypatch.setattr(catalog, "CATALOG", (replace(info("phikon"), repository="org/micro", arch="ViT-128x2/16"),))
    assert made(verify("phikon")) == made(verification)
    assert pushed.requests == []
    # as where another library fetched it, and as where no links can be made
    shutil.rmtree(repository_folder("org/micro"))
    assert verify("hf-hub:org/micro").checks[1].said.endswith(", as the hub says")
    for name in FILES:
        body = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(body)
    verification = verify("hf-hub:org/micro")
    assert (verification.passed, {made(verification)["sha256", name] for name in FILES}) == (True, {None})
    assert verification.checks[1].said.endswith(", not recorded yet, and what the hub says of it is not known here")
    fetch_repository("org/micro")
    verification = verify("hf-hub:org/micro")
    assert [made(verification)["sha256", name] for name in FILES] == [None, True, True, True]
    assert verification.checks[1].said.endswith(", as recorded at first use")
    silently(folder / "model.safetensors", with_another_bit)
    said = failure(verify("hf-hub:org/micro")).said
    assert "as at its first use; `ibot cache clear hf-hub:org/micro`, then `ibot download hf-hub:org/micro` fetches it anew." in said


def test_a_changed_file_of_a_repository_is_named(pushed: HubServer) -> None:
    folder = fetch_repository("org/micro")
    for name, change in (("config.json", lambda body: body + b"\n"), ("ibot.safetensors", with_another_bit)):
        stored = (folder / name).resolve()
        body, told = stored.read_bytes(), stored.name
        silently(stored, change)
        load("hf-hub:org/micro")
        check = failure(verify("hf-hub:org/micro"))
        assert check.file == name
        assert check.said.startswith(f"{folder / name} has the sha256 ")
        assert f"is not the file that the hub calls {told}; `ibot cache clear" in check.said
        silently(stored, lambda _, body=body: body)
    assert verify("hf-hub:org/micro").passed
