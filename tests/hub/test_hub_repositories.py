"""Repositories of the hub become folders that stay as they came, over real HTTP on loopback, with the hub's own client."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from ibot_hub.errors import DownloadError
from ibot_hub.hub.places import repository_folder
from ibot_hub.hub.repositories import (
    agrees_with_hub,
    digest_of_hub,
    fetch_repository,
    fetch_state,
    locate_repository,
    read_repository_record,
    split_name,
)  # fmt: skip
from tests.hub_server import OWNER, READER

ROOT = Path(__file__).parents[2]


def _digest(body):
    return hashlib.sha256(body).hexdigest()


REPOSITORY_SCRIPT = """
import sys
from ibot_hub.errors import DownloadError
from ibot_hub.hub.repositories import fetch_repository, split_name
for name in sys.argv[1:]:
    try:
        print(fetch_repository(*split_name(name)))
    except DownloadError as error:
        print("DownloadError:", error)
"""
COMMIT = "0123456789012345678901234567890123456789"
FILES = {"config.json": b"{}", "model.safetensors": b"tensors", "pytorch_model.bin": b"a pickle", "README.md": b"words"}


def _serve_repository(server, name, files, revision):
    server.serve(f"/api/models/{name}/revision/{revision}", json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
    tree = [{"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()} for path, body in files.items()]
    server.serve(f"/api/models/{name}/tree/{COMMIT}", json.dumps(tree).encode(), headers={"Content-Type": "application/json"})
    missing = {"model.safetensors": b""} if "model.safetensors" not in files else {}
    for at in (revision, COMMIT):
        for path, body in files.items():
            server.serve(f"/{name}/resolve/{at}/{path}", body, headers={"X-Repo-Commit": COMMIT})
        for path in missing:
            server.serve(f"/{name}/resolve/{at}/{path}", status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})


def _fetch_repositories(server, home, names, **changes):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = inherited | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"IBOT_HUB_CACHE": str(home / "cache")} | changes
    command = [sys.executable, "-c", REPOSITORY_SCRIPT, *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines(), done.stderr


def test_repositories_of_the_hub(server, tmp_path):
    _serve_repository(server, "org/good", FILES, "main")
    _serve_repository(server, "org/pinned", FILES, "v2")
    _serve_repository(server, "org/pickle", {name: FILES[name] for name in ("config.json", "pytorch_model.bin")}, "main")
    for path, status, code in [
        ("missing/resolve/main", 404, "RepoNotFound"), ("secret/resolve/main", 401, "RepoNotFound"), ("refused/resolve/main", 401, ""),
        ("gated/resolve/main", 403, "GatedRepo"), ("broken/resolve/main", 500, ""), ("good/resolve/v9", 404, "RevisionNotFound"),
    ]:  # fmt: skip
        server.serve(f"/org/{path}/model.safetensors", status=status, headers={"X-Error-Code": code} if code else {})
    expected = {
        "org/pickle": "has no model.safetensors, and pickles are not fetched",
        "org/missing": "There is no repository org/missing for you",
        "org/secret": "There is no repository org/secret for you",
        "org/refused": "401 Unauthorized",
        "org/gated": "org/gated is gated: accept its terms",
        "org/broken": "500 Internal Server Error",
        "org/good@v9": "org/good has no revision 'v9'",
        "not/a/name": "'not/a/name' is no name of a repository",
    }
    lines, stderr = _fetch_repositories(server, tmp_path, ["org/good", "org/pinned@v2", *expected])
    for folder in lines[:2]:
        assert {file.name for file in Path(folder).iterdir()} == {"config.json", "model.safetensors"}
    for line, sentence in zip(lines[2:], expected.values(), strict=True):
        assert line.startswith("DownloadError: ")
        assert sentence in line
    assert not [request for request in server.requests if request.path.endswith((".bin", ".md"))]
    assert "org/pinned@v2: downloading 7e-06 MB from " in stderr
    assert stderr.count("downloading") == 2

    (recorded,) = tmp_path.rglob("repositories/org/good/*/model.json")
    assert json.loads(recorded.read_text())["sha256"] == _digest((Path(lines[0]) / "model.safetensors").read_bytes())

    server.requests.clear()
    offline, stderr = _fetch_repositories(server, tmp_path, ["org/good", "org/unseen"], HF_HUB_OFFLINE="1")
    assert offline[0] == lines[0]
    assert "org/unseen is not (wholly) in the cache of Hugging Face" in offline[1]
    assert (server.requests, stderr) == ([], "")


def test_a_hub_that_breaks_off_lies_or_lists_what_it_should_not(hf_hub, tmp_path):
    large = bytes(range(256)) * (12 << 12)  # 12 MiB; the client keeps pieces of 10
    files = {"config.json": b"{}", "model.safetensors": large}
    hf_hub.repository("org/cut", files, cuts={"model.safetensors": 11 << 20})
    listed = ["../../../evil.safetensors", "/tmp/evil.safetensors", "..\\evil.safetensors", "x/../../model.safetensors"]
    hf_hub.repository("org/evil", {"config.json": b"{}", "model.safetensors": b"tensors"}, listed=listed)
    hf_hub.repository("org/lie", {"config.json": b"{}", "model.safetensors": b"tensors"}, lies={"model.safetensors": b"TENSORS"})
    names = ["org/evil", "org/lie", "org/lie", "org/cut"]
    (evil, lie, again, cut), _ = _fetch_repositories(hf_hub, tmp_path / "home", names)
    assert {file.name for file in Path(evil).iterdir()} == {"config.json", "model.safetensors"}
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name and path.name != "models--org--evil" and path.is_file()]
    assert lie == again  # nothing of it is kept
    assert lie.startswith(f"DownloadError: hf-hub:org/lie: model.safetensors arrived with the sha256 {_digest(b'TENSORS')}")
    if cut.startswith("DownloadError"):
        (cut,), _ = _fetch_repositories(hf_hub, tmp_path / "home", ["org/cut"])
    assert (Path(cut) / "model.safetensors").read_bytes() == large
    assert [asked for method, path, asked in hf_hub.requests if method == "GET" and path.startswith("/org/cut/resolve")][
        -1
    ] == "bytes=10485760-"


def test_two_processes_fetch_a_repository_once(hf_hub, tmp_path):
    gate = threading.Event()
    hf_hub.repository("org/once", {"config.json": b"{}", "model.safetensors": bytes(1 << 20)}, gate=gate)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(_fetch_repositories, hf_hub, tmp_path, ["org/once"]) for _ in range(2)]
        while len([path for method, path, _ in hf_hub.requests if method == "HEAD" and path.endswith("main/model.safetensors")]) < 2:
            time.sleep(0.02)
        time.sleep(0.5)  # one is in its download by now; the other would be in its own
        gate.set()
        (first, said), (second, other) = (each.result() for each in both)
    assert first == second
    assert hf_hub.gets("model.safetensors") == [None]
    assert sorted(text.count("downloading") for text in (said, other)) == [0, 1]


def test_revisions_are_pinned_and_everything_is_there_offline(hub_here, tmp_path):
    """A branch moves, a commit and a tag do not; once they are cached, no hub is asked."""
    repository = _model(hub_here, body=b"first")
    first = repository.commits[0].oid
    repository.tags["v1"] = first
    assert fetch_repository("org/micro").name == first
    second = repository.add({"config.json": b"{}", "model.safetensors": b"second"})
    names = [f"org/micro@{first}", "org/micro@v1", f"hf-hub:org/micro@{second}", "org/micro"]
    folders = [fetch_repository(*split_name(name)) for name in names]
    assert [folder.name for folder in folders] == [first, first, second, second]
    assert [(folder / "model.safetensors").read_bytes() for folder in folders] == [b"first", b"first", b"second", b"second"]
    hub_here.requests.clear()
    offline, stderr = _fetch_repositories(hub_here, tmp_path, names, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "hf"))
    assert (offline, "downloading" in stderr) == ([str(folder) for folder in folders], False)
    assert hub_here.requests == []


def test_tokens_mean_what_they_mean_elsewhere(hub_here, tmp_path, monkeypatch):
    _model(hub_here, "org/open")
    _model(hub_here, "org/secret").private = True
    with pytest.raises(DownloadError, match=r"^There is no repository org/secret for you: .*`hf auth login` if it is private\."):
        fetch_repository("org/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_forged")
    for name in ("org/open", "org/secret"):
        with pytest.raises(DownloadError, match=rf"^{name} could not be fetched: {hub_here.url} refuses your token; .* or unset HF_TOKEN"):
            fetch_repository(name)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert (fetch_repository("org/secret") / "model.safetensors").read_bytes() == b"tensors"
    # one that was logged in with is in the folder that HF_HOME names, and so are the models
    (tmp_path / "token").write_text(OWNER)
    (secret,), _ = _fetch_repositories(hub_here, tmp_path, ["org/secret"], HF_TOKEN="")
    assert Path(secret).is_relative_to(tmp_path / "hub")


def _model(hub, name="org/micro", body=b"tensors"):
    return hub.repository(name, {"config.json": b"{}", "model.safetensors": body})


def test_what_is_there_is_located_without_a_connection(hub_here):
    commit = _model(hub_here).commits[0].oid
    for name in ("org/micro", f"org/micro@{commit}"):
        with pytest.raises(DownloadError, match=f"hf-hub:{name} is not in the cache of Hugging Face; `ibot download hf-hub:{name}` fet"):
            locate_repository(*split_name(name))
    folder = fetch_repository("org/micro")
    hub_here.requests.clear()
    assert locate_repository("org/micro") == locate_repository("org/micro", commit) == folder
    assert hub_here.requests == []
    with pytest.raises(DownloadError, match="is no name of a repository"):
        locate_repository("../micro")


def test_the_hub_calls_its_files_by_digests(hub_here, tmp_path):
    _model(hub_here)
    folder = fetch_repository("org/micro")
    for file, digits in ((folder / "config.json", 40), (folder / "model.safetensors", 64)):
        told = digest_of_hub(file)
        assert len(told) == digits
        digest = _digest(file.read_bytes())
        assert agrees_with_hub(file, digest, told)
        file.resolve().write_bytes(b"other")
        assert not agrees_with_hub(file, _digest(b"other"), told)
    copied = tmp_path / "model.safetensors"  # as where no links can be made
    copied.write_bytes(b"tensors")
    assert digest_of_hub(copied) is None
    copied.unlink()
    copied.symlink_to(tmp_path / "an-etag-of-another-kind")
    assert digest_of_hub(copied) is None


def _share(folder):
    """Put the weights where newer clients have what several repositories share, called by a digest that is no sha256."""
    blob = folder / (folder / "model.safetensors").readlink()
    shared = folder.parents[2] / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    return shared


def test_a_store_that_repositories_share_is_no_lie(hub_here):
    _model(hub_here)
    folder = fetch_repository("org/micro")
    shared, known_as = _share(folder), repository_folder("org/micro") / folder.name / "model.json"
    known_as.unlink()
    assert fetch_repository("org/micro") == folder
    assert read_repository_record("org/micro", folder / "model.safetensors").sha256 == _digest(b"tensors")
    known_as.unlink()
    shared.write_bytes(b"TENSORS")
    with pytest.raises(DownloadError, match=f"arrived with the sha256 {_digest(b'TENSORS')}, not {_digest(b'tensors')}; it is removed"):
        fetch_repository("org/micro")
    assert not shared.exists()
    assert (fetch_repository("org/micro") / "model.safetensors").read_bytes() == b"tensors"


def test_caches_that_cannot_be_written_are_told_in_one_sentence(hub_here, tmp_path, monkeypatch):
    _model(hub_here)
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
        with pytest.raises(DownloadError, match=r"^org/micro cannot be put into the cache of Hugging Face: .* or set HF_HOME\.$"):
            fetch_repository("org/micro")
    with monkeypatch.context() as patch:
        patch.setenv("IBOT_HUB_CACHE", str(tmp_path / "file"))
        with pytest.raises(DownloadError, match=r"^org/micro cannot be recorded: .*; make room in .*file, or set IBOT_HUB_CACHE\.$"):
            fetch_repository("org/micro")
    folder = fetch_repository("org/micro")
    monkeypatch.setenv("IBOT_HUB_CACHE", str(tmp_path / "file"))  # there, but not recorded
    with pytest.raises(DownloadError, match="cannot be recorded"):
        fetch_repository("org/micro")
    assert folder.is_dir()


STATE = {"training/state.safetensors": b"everything", "training/state.json": b"{}", "training/recipe.toml": b"", "training/x.pkl": b"no"}


def test_a_training_state_comes_beside_the_model_and_stays(hub_here, monkeypatch, capsys):
    model = {"config.json": b"{}", "model.safetensors": b"tensors"}
    repository = hub_here.repository("org/run", model | STATE)
    first = repository.commits[0].oid
    folder = fetch_state("org/run")
    assert folder == fetch_repository("org/run")
    assert {file.name for file in (folder / "training").iterdir()} == {"state.safetensors", "state.json", "recipe.toml"}
    said = capsys.readouterr().err
    assert "org/run: downloading 7e-06 MB from " in said
    assert "org/run: downloading the training state, 1e-05 MB from " in said
    second = repository.add(model | STATE | {"training/state.safetensors": b"later"})
    assert (fetch_state("org/run") / "training/state.safetensors").read_bytes() == b"later"
    assert fetch_state("org/run", first) == folder
    for commit, body in ((first, b"everything"), (second, b"later")):
        record = read_repository_record("org/run", folder.parent / commit / "training/state.safetensors")
        assert (record.url, record.sha256) == (f"hf-hub:org/run@{commit}", _digest(body))
    hub_here.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_state("org/run", first) == folder
    assert hub_here.requests == []


def test_where_there_is_no_training_state_is_told(hub_here, monkeypatch):
    repository = _model(hub_here)
    with pytest.raises(DownloadError) as caught:
        fetch_state("org/micro")
    assert str(caught.value) == (
        "hf-hub:org/micro has no training state, only config.json, model.safetensors; its owner adds it by `ibot push RUN org/micro "
        "--with-training-state`, and the model alone starts a run where `ibot train --from` is given the folder that `ibot download "
        "hf-hub:org/micro` prints."
    )
    with pytest.raises(DownloadError, match="There is no repository org/none for you"):
        fetch_state("org/none")
    with pytest.raises(DownloadError, match="org/micro has no revision 'v9'"):
        fetch_state("org/micro", "v9")
    repository.add(repository.commits[0].files | STATE)
    fetch_repository("org/micro")
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(DownloadError, match="The training state of org/micro is not in the cache of Hugging Face, and"):
            fetch_state("org/micro")
    repository.lies["training/state.safetensors"] = b"EVERYTHING"
    with pytest.raises(DownloadError, match=r"hf-hub:org/micro: state\.safetensors arrived with the sha256 .*; it is removed, try again"):
        fetch_state("org/micro")
    repository.lies.clear()
    assert (fetch_state("org/micro") / "training/state.safetensors").read_bytes() == b"everything"
