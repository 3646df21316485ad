"""A hub on this machine: as much of the protocol as huggingface_hub speaks for an upload and a download of models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".model")
PREFIX = "mirror"  # a hub may lie below a path


@dataclass
class Repo:
    """branches: name -> commit; commits: id -> path -> content."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], summary: str) -> str:
        listing = json.dumps([len(self.commits), *((n, hashlib.sha1(c).hexdigest()) for n, c in files.items())])
        name = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        self.summaries.append(summary)
        return name

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]


@dataclass
class Hub:
    """url: what HF_ENDPOINT is to be. sent: large contents by digest. broken: what is answered to commits, in place of
    taking them. moved: old name -> new name. gated: names that are there and not for everybody. cut: of files, whose
    answers end in their middle. lost: how many commits are taken whose answers never arrive. busy: how many requests
    of a kind (commit, put) are answered 429, with `wait` as Retry-After. slow: seconds before a commit is taken;
    stuck: a large file never arrives, and `begun` is set once a byte of it has."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0
    broken: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    lost: int = 0
    busy: dict[str, int] = field(default_factory=dict)
    wait: str = "0"
    slow: float = 0
    stuck: bool = False
    begun: threading.Event = field(default_factory=threading.Event)

    def make(self, name: str, private: bool = False, files: dict[str, bytes] | None = None) -> Repo:
        repo = self.repos[name] = Repo(private)
        repo.commit("main", {".gitattributes": b"", **(files or {})}, "initial")
        return repo


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _RefusedError(Exception):
    def __init__(self, code: int, kind: str = "", **headers: str) -> None:
        self.code, self.kind, self.headers = code, kind, headers


class _LostError(Exception):
    """The connection ends in place of an answer."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, act: Any) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.hub.stuck and self.command == "PUT":
            self.rfile.read(1)
            self.hub.begun.set()
            self.close_connection = not self.rfile.read(length)  # until the other side has gone
            return
        body = self.rfile.read(length) if length else self._chunks()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        parts = parts[1:] if parts[0] == PREFIX else parts
        headers: dict[str, str] = {}
        for old, new in self.hub.moved.items():
            if f"/{old}/" in self.path + "/":
                place = self.path.replace(f"/{old}", f"/{new}", 1)
                self.send_response(307)
                self.send_header("Location", place)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        try:
            found = act(parts, body, headers)
            code, raw = 200, found if isinstance(found, bytes) else json.dumps(found).encode()
        except _RefusedError as refused:
            code, raw = refused.code, b"{}"
            headers = {"X-Error-Code": refused.kind, "X-Error-Message": refused.kind, **refused.headers}
        except _LostError:
            self.close_connection = True
            return
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(raw))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and parts[-1] in self.hub.cut:
            self.wfile.write(raw[: len(raw) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(raw)

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _repo(self, name: str) -> Repo:
        if name in self.hub.gated:
            raise _RefusedError(403, "GatedRepo")
        if name not in self.hub.repos:
            raise _RefusedError(404, "RepoNotFound")
        return self.hub.repos[name]

    def _at(self, repo: Repo, revision: str) -> str:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise _RefusedError(404, "RevisionNotFound")
        return commit

    def _get(self, parts: list[str], body: bytes, headers: dict[str, str]) -> Any:
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            repo = self._repo(name)
            commit = self._at(repo, parts[5] if len(parts) > 5 else "main")
            files = repo.commits[commit]
            if parts[4:5] == ["tree"]:
                return [_entry(path, content) for path, content in files.items()]
            siblings = [{"rfilename": path} for path in files]
            return {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []}
        name, path = "/".join(parts[:2]), "/".join(parts[4:])
        repo = self._repo(name)
        commit = self._at(repo, parts[3])
        if path not in repo.commits[commit]:
            raise _RefusedError(404, "EntryNotFound")
        content = repo.commits[commit][path]
        headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return content

    def _post(self, parts: list[str], body: bytes, headers: dict[str, str]) -> Any:
        if parts == ["api", "validate-yaml"]:
            return {"errors": [], "warnings": []}
        if not self.headers.get("Authorization"):
            raise _RefusedError(401)
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.make(name, bool(asked.get("private")) or asked.get("visibility") == "private")
            return {"url": f"{self.hub.url}/{name}", "id": name}
        if parts[-2:] == ["objects", "batch"]:
            return {"objects": [self._batch(entry) for entry in json.loads(body)["objects"]]}
        name = "/".join(parts[2:4])
        repo = self._repo(name)
        if parts[4] == "branch":
            repo.branches[parts[5]] = repo.branches["main"]
            return {}
        if parts[4] == "preupload":
            asked = json.loads(body)
            ignores = asked.get("gitIgnore") or repo.files(parts[5]).get(".gitignore", b"").decode()
            return {"files": [_mode(entry["path"], ignores) for entry in asked["files"]]}
        assert parts[4] == "commit"
        if self.hub.broken:
            raise _RefusedError(self.hub.broken)
        self._busy("commit")
        time.sleep(self.hub.slow)
        commit = self._commit(repo, parts[5], [json.loads(line) for line in body.splitlines()])
        if self.hub.lost:
            self.hub.lost -= 1
            raise _LostError
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}

    def _batch(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.hub.sent:
            return entry
        return entry | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}}

    def _commit(self, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> str:
        header = lines[0]["value"]
        if header.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
            raise _RefusedError(412)
        files = dict(repo.files(branch))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.sent[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        return repo.commit(branch, files, header["summary"])

    def _busy(self, kind: str) -> None:
        if self.hub.busy.get(kind):
            self.hub.busy[kind] -= 1
            raise _RefusedError(429, **{"Retry-After": self.hub.wait})

    def _delete(self, parts: list[str], body: bytes, headers: dict[str, str]) -> Any:
        del self._repo("/".join(parts[2:4])).branches[parts[5]]
        return {}

    def _put(self, parts: list[str], body: bytes, headers: dict[str, str]) -> Any:
        self._busy("put")
        assert hashlib.sha256(body).hexdigest() == parts[1]
        self.hub.sent[parts[1]] = body
        self.hub.puts += 1
        return {}


def _mode(path: str, ignores: str) -> dict[str, Any]:
    ignored = any(fnmatch(path, line) for line in ignores.split())
    return {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": ignored}


def _entry(path: str, content: bytes) -> dict[str, Any]:
    stored, large = content, {}
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        stored = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
        large = {"lfs": {"oid": digest, "size": len(content), "pointerSize": len(stored)}}
    name = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": name, **large}
