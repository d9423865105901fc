"""A web server on this machine whose files are a dictionary, and the hub's API on top of it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebStore:
    """`files`: path → bytes, `failures`: path → status given instead, `redirects`: path → address,
    `seen`: "METHOD target" of every request."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    drops: dict[str, str] = field(default_factory=dict)
    """What of a path's answer comes in drops without end: "header lines", or "bytes"."""
    seen: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    """Authorization header of every request."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of every answer."""
    etags: bool = True
    announce: bool = True
    """Send Content-Length."""
    commit: str = "c" * 40

    def fetched(self) -> list[str]:
        """Targets that were sent, HEAD not counted."""
        return [line.removeprefix("GET ") for line in self.seen if line.startswith("GET ")]

    def put_repo(self, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
        """Make `repo` a model repository of the hub whose `revision` is `commit`."""
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        info = json.dumps({"id": repo, "sha": self.commit, "siblings": siblings}).encode()
        for path in (
            f"/api/models/{repo}",
            *(f"/api/models/{repo}/revision/{r}" for r in (revision, self.commit)),
        ):
            self.files[path] = info
        self.files[f"/api/models/{repo}/tree/{self.commit}"] = json.dumps(
            [
                {"type": "file", "path": name, "size": len(data), "oid": ""}
                for name, data in files.items()
            ]
        ).encode()
        for name, data in files.items():
            self.files[f"/{repo}/resolve/{self.commit}/{name}"] = data


@contextmanager
def web_store() -> Iterator[WebStore]:
    store = WebStore()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            store.seen.append(f"{self.command} {self.path}")
            store.authorizations.append(self.headers["Authorization"])
            path = self.path.partition("?")[0]
            data = store.files.get(path)
            status = store.failures.get(path, 404 if data is None else 200)
            status = 302 if path in store.redirects else status
            body = (data or b"") if status == 200 else b""
            self.send_response(status)
            if path in store.redirects:
                self.send_header("Location", store.redirects[path])
            if store.announce:
                self.send_header("Content-Length", str(len(body)))
            if store.etags:
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", store.commit)
            for name, value in store.headers.items():
                self.send_header(name, value)
            what = store.drops.get(path)
            if what == "header lines":
                self.flush_headers()
                self._drip(b"X: y\r\n")
                return
            self.end_headers()
            if what == "bytes" and self.command == "GET":
                self._drip(b"\0")
                return
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def _drip(self, drop: bytes) -> None:
            self.close_connection = True
            with suppress(OSError):  # until the other side goes
                while True:
                    self.wfile.write(drop)
                    time.sleep(0.02)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield store
    server.shutdown()
    server.server_close()
    thread.join()
