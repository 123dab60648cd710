"""A web server on this machine that plays the Hugging Face hub: the few requests that fetching a model makes."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_the_right_token"


@dataclass
class Repo:
    """Files by name. `access`: "open", "private" (no such repository without the token), or "gated"."""

    files: dict[str, bytes]
    access: str = "open"
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})


@dataclass
class FakeHub:
    """What the server knows and does. `requests` lists "GET /path" and the like.

    broken: every request is answered so. cut: bytes after which the body of a file named so breaks off.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: int | None = None
    cut: dict[str, int] = field(default_factory=dict)
    address: str = ""

    def fetched(self) -> list[str]:
        """The files whose bodies were asked for."""
        gets = (line.split("/resolve/")[1] for line in self.requests if line.startswith("GET") and "/resolve/" in line)
        return sorted(path.split("/", 1)[1] for path in gets)


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.broken is not None:
            return self.refuse(self.hub.broken, "")
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        owner_and_name = parts[2:4] if is_api else parts[:2]
        repo = self.hub.repos.get("/".join(owner_and_name))
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.access == "private" and not allowed):
            return self.refuse(404 if allowed else 401, "RepoNotFound")
        revision = (parts[5] if len(parts) > 5 else "main") if is_api else parts[3]
        commit = revision if revision in repo.revisions.values() else repo.revisions.get(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        if is_api:
            return self.listing("/".join(owner_and_name), repo, commit)
        if repo.access == "gated" and not allowed:
            return self.refuse(403, "GatedRepo")
        self.file("/".join(parts[4:]), repo, commit)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def listing(self, name: str, repo: Repo, commit: str) -> None:
        files = [{"rfilename": file, "size": len(content)} for file, content in repo.files.items()]
        body = json.dumps({"id": name, "sha": commit, "siblings": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, name: str, repo: Repo, commit: str) -> None:
        content = repo.files.get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            cut = self.hub.cut.get(name)
            self.wfile.write(content[start:] if cut is None else content[start:cut])
            self.close_connection = cut is not None


@contextmanager
def serve() -> Iterator[FakeHub]:
    """A hub without repositories, at `address`, until the `with` ends."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()
