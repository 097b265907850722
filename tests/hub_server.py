"""A small Hugging Face Hub on this machine's loopback, which the real clients push to and pull from."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

OWNER, READER = "hf_owner", "hf_reader"  # tokens: one may do all, one may only read; every other one is refused


@dataclass
class Commit:
    oid: str
    title: str
    files: Mapping[str, bytes]


@dataclass
class Repository:
    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)  # name -> commit
    listed: list[str] = field(default_factory=list)  # names that a listing has although nothing is there
    lies: dict[str, bytes] = field(default_factory=dict)  # what is sent in place of a file, under the file's own digest
    cuts: dict[str, int] = field(default_factory=dict)  # the next GET of that file ends after so many bytes
    gate: threading.Event | None = None  # every GET of a file waits for it

    def add(self, files: Mapping[str, bytes], title: str = "by hand") -> str:
        """One commit that holds exactly these files."""
        said = hashlib.sha1(f"{len(self.commits)}{title}".encode())
        for name, body in sorted(files.items()):
            said.update(name.encode() + body)
        self.commits.append(Commit(said.hexdigest(), title, dict(files)))
        return self.commits[-1].oid

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == self.tags.get(revision, revision)), None)


class HubServer(ThreadingHTTPServer):
    """Remembers every request as (method, path, range asked for)."""

    daemon_threads = False  # closing the server waits for its threads, so none outlives a test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # sha256 -> bytes that wait for their commit
        self.requests: list[tuple[str, str, str | None]] = []
        self.commit_status = 200  # what the next commits answer
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def repository(self, name: str, files: Mapping[str, bytes], **facts: Any) -> Repository:
        """A repository with one commit."""
        self.repositories[name] = Repository(**facts)
        self.repositories[name].add(files)
        return self.repositories[name]

    def gets(self, file: str) -> list[str | None]:
        """The range that each GET of a file of that name asked for."""
        return [asked for method, path, asked in self.requests if method == "GET" and "/resolve/" in path and path.endswith("/" + file)]

    def handle_error(self, *_: object) -> None:
        """A client that gave up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def log_message(self, *_: object) -> None:
        """Nothing on stderr, which tests read."""

    def _route(self, method: str) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append((method, path, self.headers["Range"]))
        self.body = (
            b"".join(self._chunks())
            if self.headers["Transfer-Encoding"] == "chunked"
            else self.rfile.read(int(self.headers["Content-Length"] or 0))
        )
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        parts = path.strip("/").split("/")
        if path.startswith("/objects/"):  # where a large file goes, with an address that is its own permission
            self.server.large[parts[1]] = self.body
            self._json({})
        elif token not in ("", OWNER, READER):
            self._error(401, "", "Invalid username or password.")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/whoami-v2":
            self._json({"name": token, "type": "user", "orgs": []}) if token else self._error(401, "", "Not logged in.")
        elif path == "/api/repos/create":
            self._create(token)
        elif method in ("POST", "PUT") and token != OWNER:
            self._error(403 if token else 401, "", "You have no write access.")
        elif path.startswith("/api/models/"):
            self._in_repository("/".join(parts[2:4]), token, parts[4:])
        else:
            self._in_repository("/".join(parts[:2]).removesuffix(".git"), token, parts[2:])

    def _chunks(self) -> Iterator[bytes]:
        """A file of unknown length, as the clients send large ones."""
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _create(self, token: str) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        answer = {"url": f"{self.server.url}/{name}", "name": name, "id": name}
        if token != OWNER:
            self._error(403 if token else 401, "", "You have no right to create a model here.")
        elif name in self.server.repositories:
            self._json(answer, 409)
        else:
            self.server.repository(name, {".gitattributes": b""}, private=wanted.get("visibility") == "private")
            self._json(answer)

    def _in_repository(self, name: str, token: str, parts: list[str]) -> None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not token):
            # as the real hub: who may not see a repository is not told that there is one
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        match parts:
            case [] | ["revision", _]:
                self._info(name, repository, parts[1] if parts else "main")
            case ["tree", revision, *_]:
                self._tree(repository, revision)
            case ["resolve", revision, *file]:
                self._file(repository, revision, "/".join(file))
            case ["preupload", _]:
                files = [entry["path"] for entry in json.loads(self.body)["files"]]
                large = {file: "lfs" if file.endswith(".safetensors") else "regular" for file in files}
                self._json({"files": [{"path": file, "uploadMode": large[file], "shouldIgnore": False} for file in files]})
            case ["info", "lfs", "objects", "batch"]:
                oids = [(entry["oid"], entry["size"]) for entry in json.loads(self.body)["objects"]]
                upload = [{"oid": o, "size": s, "actions": {"upload": {"href": f"{self.server.url}/objects/{o}"}}} for o, s in oids]
                self._json({"transfer": "basic", "objects": upload})
            case ["commit", "main"]:
                self._commit(name, repository)
            case _:
                self._error(404, "", f"no such end point: {self.path}")

    def _commit(self, name: str, repository: Repository) -> None:
        if self.server.commit_status != 200:
            self._error(self.server.commit_status, "", "the hub is ill")
            return
        files, title, parent = dict(repository.commits[-1].files), "", None
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    title, parent = value["summary"], value.get("parentCommit")
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        if parent not in (None, repository.commits[-1].oid):
            self._error(412, "", "A commit has happened since. Please refresh and try again.")
            return
        oid = repository.add(files, title)
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def _info(self, name: str, repository: Repository, revision: str) -> None:
        commit = repository.at(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        siblings = [{"rfilename": file} for file in [*commit.files, *repository.listed]]
        self._json({"id": name, "modelId": name, "sha": commit.oid, "private": repository.private, "tags": [], "siblings": siblings})

    def _tree(self, repository: Repository, revision: str) -> None:
        commit = repository.at(revision)
        assert commit is not None  # clients ask for the revision first
        entries = []
        for file, body in [*commit.files.items(), *((file, b"") for file in repository.listed)]:
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(body), "oid": _blob(body)}
            if file.endswith(".safetensors"):
                entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def _file(self, repository: Repository, revision: str, file: str) -> None:
        commit = repository.at(revision)
        if commit is None or file not in commit.files:
            self._error(404, "EntryNotFound" if commit else "RevisionNotFound", "not found", commit)
            return
        body = commit.files[file]
        etag = hashlib.sha256(body).hexdigest() if file.endswith(".safetensors") else _blob(body)
        body = repository.lies.get(file, body)
        asked, status, headers = self.headers["Range"], 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if repository.gate and self.command == "GET":
            repository.gate.wait(20)
        cut = repository.cuts.pop(file, None) if self.command == "GET" else None
        self._send(status, body, headers, cut)

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, sentence: str, commit: Commit | None = None) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": sentence}
        headers |= {"X-Error-Code": code} if code else {}
        headers |= {"X-Repo-Commit": commit.oid} if commit else {}
        self._send(status, json.dumps({"error": sentence}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def _blob(body: bytes) -> str:
    """The digest that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
