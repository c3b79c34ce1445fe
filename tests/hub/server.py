"""A server on loopback that speaks the hub's API as far as huggingface_hub and datasets use it, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")  # stored as LFS: named by their SHA-256, and served from another host

_ROUTE = re.compile(
    r"/api/(?P<api>models|datasets)/(?P<api_name>[^/]+/[^/]+)(?:/(?P<verb>revision|tree|paths-info)/(?P<api_revision>[^/]+)"
    r"(?:/(?P<folder>.*))?)?|/(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
)


@dataclass
class Fault:
    """What goes wrong with a file: `cut` and `reset` end its body in the middle, `silent` answers nothing, or a status."""

    kind: str
    times: int = 10**6


@dataclass
class Repository:
    """Files of each commit; `gated` is refused without the token `granted`, `private` denied to exist."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit, and move a branch or tag to it."""
        content = "".join(f"{path}{hashlib.sha256(data).hexdigest()}" for path, data in sorted(files.items()))
        commit = hashlib.sha1(f"{len(self.commits)}{content}".encode()).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


@dataclass
class Request:
    """What the server was asked for."""

    method: str
    path: str
    start: int | None
    token: str | None


class Hub:
    """The server.

    Args:
        granted: The token that opens gated and private repositories; `known` ones are valid but have no access.
    """

    def __init__(self, granted: str = "hf_granted", known: tuple[str, ...] = ("hf_stranger",)) -> None:
        self.granted, self.known = granted, known
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, Fault] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def repository(self, kind: str, name: str) -> Repository:
        """Return a repository, a new one if there is none."""
        return self.repositories.setdefault((kind, name), Repository())

    def fault(self, file: str, kind: str, times: int = 10**6) -> None:
        """Let the next requests for a file's content go wrong."""
        self.faults[file] = Fault(kind, times)

    def asked(self, file: str, method: str = "GET") -> list[Request]:
        """Return the requests for the content of a file."""
        return [request for request in self.requests if request.method == method and request.path.endswith(file)]

    @contextmanager
    def running(self) -> Iterator[Hub]:
        """Serve until the block is left."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.socket.close()


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, parts = self.server.hub, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(parts.path)
        found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        self.range = (int(found[1]), int(found[2]) if found[2] else None) if found else None
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.requests.append(Request(self.command, path, self.range[0] if self.range else None, token))
        if path.startswith("/storage/"):  # the other host of large files: it knows no tokens and no repositories
            _, _, digest, name = path.split("/", 3)
            for repository in list(hub.repositories.values()):
                for stored in (data for files in repository.commits.values() for data in files.values()):
                    if hashlib.sha256(stored).hexdigest() == digest:
                        return self._send_file(stored, digest, name)
            return self._refuse(404, "", "")
        match = _ROUTE.fullmatch(path)
        if not match:
            return self._refuse(404, "", "Not found")
        kind = match["api"] or match["kind"] or "models"
        asked = hub.repositories.get((kind, match["api_name"] or match["name"]))
        if token and token not in (hub.granted, *hub.known):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if asked is None or (asked.private and token != hub.granted):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        revision = match["api_revision"] or match["revision"] or "main"
        commit = asked.refs.get(revision, revision)
        if commit not in asked.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = asked.commits[commit]
        if match["api"]:
            return self._send_listing(match, asked, commit, files, parse_qs(body.decode()))
        if asked.gated and token != hub.granted:
            name = match["name"]
            said = f"Access to {kind[:-1]} {name} is restricted. You must have access to it and be authenticated to access it."
            return self._refuse(403 if token else 401, "GatedRepo", said)
        if match["file"] not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        data = files[match["file"]]
        if match["file"].endswith(LARGE):
            return self._redirect(data, commit, match["file"])
        return self._send_file(data, hashlib.sha1(data).hexdigest(), match["file"], {"X-Repo-Commit": commit})

    def _redirect(self, data: bytes, commit: str, file: str) -> None:
        if self._fails(file, statuses_only=True):
            return
        digest = hashlib.sha256(data).hexdigest()
        port = self.server.hub.port
        headers = {
            "Location": f"http://localhost:{port}/storage/{digest}/{file}", "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "ETag": f'"{digest}"',
        }  # fmt: skip
        self._send(302, b"", headers)

    def _send_listing(
        self, match: re.Match[str], repository: Repository, commit: str, files: dict[str, bytes], form: dict[str, list[str]]
    ) -> None:
        if self._fails(match["verb"] or "info"):
            return None
        if match["verb"] == "tree":
            folder = (match["folder"] or "").strip("/")
            if folder and not any(path.startswith(f"{folder}/") for path in files):
                return self._refuse(404, "EntryNotFound", f"{folder} does not exist on {commit}")
            deep = "recursive=true" in self.path.lower()
            inside = {path: path.removeprefix(f"{folder}/" if folder else "") for path in files}
            chosen = [path for path, rest in inside.items() if path.startswith(folder) and (deep or "/" not in rest)]
            folders = {path[: path.rindex("/")] for path in files if "/" in path and path.startswith(folder)} - {folder}
            entries = [_folder(name) for name in sorted(folders)] + [_file(path, files[path]) for path in chosen]
            return self._send_json(entries)
        if match["verb"] == "paths-info":
            asked = form.get("paths", [])
            found = [_file(path, files[path]) for path in asked if path in files]
            return self._send_json(found + [_folder(p) for p in asked if any(path.startswith(f"{p}/") for path in files)])
        name = match["api_name"]
        shown = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
        info = {
            "_id": commit[:24], "id": name, "modelId": name, "author": name.split("/")[0], "sha": commit, "siblings": shown,
            "private": repository.private, "gated": "manual" if repository.gated else False, "disabled": False, "tags": [],
            "downloads": 0, "likes": 0, "lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z",
        }  # fmt: skip
        return self._send_json(info)

    def _fails(self, file: str, *, statuses_only: bool = False) -> bool:
        """Answer with a file's fault if it is a status or silence; return whether it was."""
        fault = self.server.hub.faults.get(file)
        if fault is None or fault.times < 1 or fault.kind in ("cut", "reset") or (statuses_only and fault.kind == "silent"):
            return False
        fault.times -= 1
        if fault.kind == "silent":
            time.sleep(30)
            self.close_connection = True
        else:
            self._refuse(int(fault.kind), "", "The server has a fault")
        return True

    def _send_file(self, data: bytes, etag: str, file: str, headers: dict[str, str] | None = None) -> None:
        if self._fails(file):
            return None
        shown, status, more = data, 200, {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"} | (headers or {})
        if self.range:
            start, end = self.range
            if start >= len(data):
                return self._refuse(416, "", "", {"Content-Range": f"bytes */{len(data)}"})
            shown = data[start : None if end is None else end + 1]
            status = 206
            more["Content-Range"] = f"bytes {start}-{start + len(shown) - 1}/{len(data)}"
        fault = self.server.hub.faults.get(file)
        if self.command == "GET" and fault and fault.times > 0:
            fault.times -= 1
            return self._send(status, shown, more, cut=len(shown) // 2, reset=fault.kind == "reset")
        return self._send(status, shown, more)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {name: value for name, value in named.items() if value} | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: int | None = None, reset: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body)), "X-Request-Id": "1-2-3"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            if reset:  # without waiting for what was sent to arrive, as a router does that dies
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_WR)
            self.connection.close()
            self.close_connection = True


def _file(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
    return entry


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
