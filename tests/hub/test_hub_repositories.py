"""Repositories of the hub become folders that stay as they came, over real HTTP on loopback, with the hub's own client."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _digest(body):
    return hashlib.sha256(body).hexdigest()


REPOSITORY_SCRIPT = """
import sys
from ibot_hub.hub import files
from ibot_hub.catalog import Checkpoint
from ibot_hub.errors import DownloadError
for name in sys.argv[1:]:
    repository, _, revision = name.partition("@")
    entry = Checkpoint(name="x", arch="", network=None, data="", repository=repository, revision=revision or None)
    try:
        print(files.fetch(entry))
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
    hf_hub.repository("org/once", {"config.json": b"{}", "model.safetensors": bytes(1 << 20)})
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(_fetch_repositories, hf_hub, tmp_path, ["org/once"]) for _ in range(2)]
        (first, _), (second, _) = (each.result() for each in both)
    assert first == second
    assert hf_hub.gets("model.safetensors") == [None]
