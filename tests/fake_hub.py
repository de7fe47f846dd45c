"""The parts of the Hugging Face hub that a download uses, on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c0ffee" * 6 + "1234"


class FakeHub:
    """Repositories as {id: {file: bytes}}; weights are large files with a SHA-256, everything else is small."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        """Other data of a repository: tags, config."""
        self.gated: set[str] = set()
        self.is_xet = False
        """Large files are marked as kept in Xet storage."""
        self.cuts: list[int] = []
        """Each answer with a large file takes one: the bytes after which its connection breaks."""
        self.ignores_ranges = False
        """Ranges are ignored."""
        self.status: int | None = None
        """An error for every request."""
        self.hold: threading.Event | None = None
        """Large files are sent up to their half, and then wait for this."""
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and range of each request."""
        self.address = ""

    def add(self, repository: str, files: dict[str, bytes], **facts: Any) -> None:
        """A repository; nested names have slashes."""
        self.repositories[repository] = files
        self.facts[repository] = facts

    def add_folder(self, repository: str, folder: Path, **facts: Any) -> None:
        """A repository with the files of a folder."""
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.add(repository, files, **facts)

    def downloads(self) -> list[str]:
        """The large files that were asked for, in order, with their ranges."""
        return [
            f"{path.partition('/resolve/')[2].partition('/')[2]} {begin}"
            for method, path, begin in self.requests
            if method == "GET" and path.endswith(".safetensors")
        ]


def large(name: str) -> bool:
    """Whether the hub keeps its SHA-256."""
    return name.endswith((".safetensors", ".bin"))


def digest(data: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(data).hexdigest()


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _listing(hub: FakeHub, repository: str) -> dict[str, Any]:
    siblings = []
    for name, data in hub.repositories[repository].items():
        entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_id(data)}
        if large(name):
            entry["lfs"] = {"sha256": digest(data), "size": len(data), "pointerSize": 134}
        siblings.append(entry)
    return {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], **hub.facts[repository]}


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if self.hub.status is not None:
            return self._refuse(self.hub.status, "")
        if path.startswith("api/models/"):
            repository = path.removeprefix("api/models/").partition("/revision/")[0]
            if repository not in self.hub.repositories:
                return self._refuse(401, "RepoNotFound")
            return self._send(200, json.dumps(_listing(self.hub, repository)).encode(), body, {})
        repository, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        data = self.hub.repositories.get(repository, {}).get(name)
        if data is None:
            return self._refuse(404, "EntryNotFound")
        if repository in self.hub.gated and not self.headers.get("Authorization"):
            return self._refuse(401, "GatedRepo")
        etag = digest(data) if large(name) else _git_id(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.hub.is_xet and large(name):
            headers |= {"X-Xet-Hash": etag, "X-Xet-Refresh-Route": f"{self.hub.address}/xet-read-token"}
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if not body or self.hub.ignores_ranges or not self.headers.get("Range"):
            return self._send(200, data, body, headers, cut=large(name))
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        return self._send(206, data[begin:], body, headers, cut=large(name))

    def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if cut and self.hub.cuts:
            self.wfile.write(data[: self.hub.cuts.pop(0)])
            self.close_connection = True
            return
        half = len(data) // 2 if cut and self.hub.hold is not None else len(data)
        self.wfile.write(data[:half])
        if half < len(data):
            assert self.hub.hold is not None
            self.wfile.flush()
            self.hub.hold.wait(30)
            self.wfile.write(data[half:])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """A hub for this process and those it starts, with an empty cache."""
    hub = FakeHub()
    server = _Server(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    use(monkeypatch, hub.address, cache)
    try:
        yield hub
    finally:
        if hub.hold is not None:
            hub.hold.set()
        server.shutdown()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Let the hub's library, here and in processes, ask `address` and keep things in `cache`; no token is set."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HF_ENDPOINT": address, "HF_HOME": str(cache.parent), "HF_HUB_CACHE": str(cache)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache.parent / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
