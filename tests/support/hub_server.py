"""A very small Hugging Face hub on the loopback: enough of its protocol to list and download repositories."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Hub:
    """What the hub has, and what happened."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    claimed_sizes: dict[str, int] = field(default_factory=dict)  # file name: size that the listing claims
    break_after: dict[str, list[int]] = field(default_factory=dict)  # file name: bytes sent before the line breaks
    branches: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)  # (repository, revision): files
    gated: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    url: str = ""

    def files(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """What a repository holds at a branch, tag or commit; None if there is no such revision."""
        held = {"main": self.repositories.get(repository)}
        held |= {name: files for (owner, name), files in self.branches.items() if owner == repository}
        commits = {self.revision(files): files for files in held.values() if files is not None}
        return held.get(revision) or commits.get(revision)

    @staticmethod
    def revision(files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def downloads(self) -> list[str]:
        """Files whose content was asked for."""
        return [path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if refs := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/refs", path):
            self._refs(refs[1])
        elif listing := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([\w./-]+))?", path):
            self._listing(listing[1], listing[2] or "main")
        elif file := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/([\w./-]+)", path):
            self._file(file[1], file[2], file[3])
        else:
            self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _refs(self, repository: str) -> None:
        requests = [revision for owner, revision in self.hub.branches if owner == repository and "pr/" in revision]
        found = [{"name": ref.rpartition("/")[2], "ref": ref, "targetCommit": "0" * 40} for ref in requests]
        body = {"branches": [], "converts": [], "tags": [], "pullRequests": found}
        self._reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _listing(self, repository: str, revision: str) -> None:
        files = self.hub.files(repository, revision)
        if repository in self.hub.gated:
            self._reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif repository not in self.hub.repositories:
            self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif files is None:
            self._reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [
                {"rfilename": name, "size": self.hub.claimed_sizes.get(name, len(content))}
                for name, content in files.items()
            ]
            body = {"_id": "1", "id": repository, "sha": self.hub.revision(files), "siblings": siblings}
            self._reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, revision: str, name: str) -> None:
        files = self.hub.files(repository, revision) or {}
        content = files.get(name)
        if content is None:
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.revision(files), "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - start)
        end = len(content)
        if self.command == "GET" and self.hub.break_after.get(name):
            end = start + self.hub.break_after[name].pop(0)
            self.close_connection = True
        self._reply(status, content[start:end], headers)

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
