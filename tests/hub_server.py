"""A small hub: a real HTTP server that speaks the endpoints of the Hugging Face hub which its client uses."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repo:
    """One repository; every revision is the same commit."""

    files: dict[str, bytes]
    commit: str = "c0ffee" * 6 + "beef"
    revisions: tuple[str, ...] = ("main",)
    token: str = ""
    """Files are only for who has it; the listing is for everybody, as with gated repositories."""
    in_git: tuple[str, ...] = ()
    """Small files, whose etag is a git hash; that of the others is their SHA-256."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked."""

    repos: dict[str, Repo]
    cut_after: int | None = None
    """Bytes after which the next transfer of a larger file breaks off."""
    status: int = 0
    """Answers everything so, if set."""
    status_after_cut: int = 0
    spoil: Callable[[bytes], bytes] = bytes
    """What is done to files on the way."""
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""

    def asked(self, method: str, repo: str) -> list[str]:
        """Files of a repository that were asked for by a method, once each, in order of the first request."""
        paths = [re.fullmatch(f"/{repo}/resolve/[^/]+/(.+)", r.path) for r in self.requests if r.method == method]
        return list(dict.fromkeys(unquote(path[1]) for path in paths if path))


@contextmanager
def hub_server(repos: dict[str, dict[str, bytes] | Repo]) -> Iterator[Hub]:
    hub = Hub({name: held if isinstance(held, Repo) else Repo(held) for name, held in repos.items()})
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


def use(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points this process's client at the server, as HF_ENDPOINT and HF_HOME do when it is first imported."""
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, path, headers))
        asked = re.fullmatch(
            r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<rev>[^/]+)(?:/(?P<path>.+))?)?", path
        ) or re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/(?P<what>resolve)/(?P<rev>[^/]+)/(?P<path>.+)", path)
        repo = self.hub.repos.get(asked["repo"]) if asked else None
        inside = unquote((asked and asked["path"]) or "")
        told = headers.get("authorization", "")
        if self.hub.status:
            self._refuse(self.hub.status, "")
        elif repo is None:
            self._refuse(401, "RepoNotFound")
        elif unquote(asked["rev"] or "main") not in {repo.commit, *repo.revisions}:
            self._refuse(404, "RevisionNotFound")
        elif asked["what"] == "tree":
            self._tree(repo, inside)
        elif asked["what"] != "resolve":
            self._json({"id": asked["repo"], "sha": repo.commit, "private": False, "siblings": []})
        elif inside not in repo.files:
            self._refuse(404, "EntryNotFound")
        elif repo.token and told != f"Bearer {repo.token}":
            self._refuse(403 if told else 401, "GatedRepo")
        else:
            self._file(repo, inside)

    def _tree(self, repo: Repo, folder: str) -> None:
        recursive = "recursive=true" in self.path.lower()
        inside = f"{folder}/" if folder else ""
        found: dict[str, object] = {}
        for path, content in repo.files.items():
            if not path.startswith(inside):
                continue
            name, deeper, _ = path.removeprefix(inside).partition("/")
            if deeper and not recursive:
                found[name] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": inside + name}
                continue
            sha = hashlib.sha256(content).hexdigest()
            lfs = {"oid": sha, "size": len(content), "pointerSize": 130}
            found[path] = {"type": "file", "oid": sha[:40], "size": len(content), "path": path, "lfs": lfs}
        if folder and not found:
            self._refuse(404, "EntryNotFound")
        else:
            self._json(list(found.values()))

    def _file(self, repo: Repo, path: str) -> None:
        content = repo.files[path]
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if "Range" in self.headers else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", repo.commit)
        etag = hashlib.sha1(content) if path in repo.in_git else hashlib.sha256(content)
        self.send_header("ETag", f'"{etag.hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = self.hub.spoil(content)[start:]
        if self.hub.cut_after is not None and len(sent) > self.hub.cut_after:
            sent, self.hub.cut_after = sent[: self.hub.cut_after], None
            self.hub.status = self.hub.status_after_cut
        self.wfile.write(sent)

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
