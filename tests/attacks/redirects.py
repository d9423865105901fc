"""Two web servers: one that LoadAdapter may ask and that redirects to the other, which nobody may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Redirects:
    """What a test needs of them."""

    allowed: str
    """The prefix of allowed sources."""
    inner: str
    status: int = 302
    inner_seen: list[str] = field(default_factory=list)


@contextmanager
def redirecting() -> Iterator[Redirects]:
    class Inner(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.inner_seen.append(f"{self.command} {self.path}")
            body = b'{"AccessKeyId": "secret"}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Allowed(Inner):
        def do_GET(self) -> None:
            self.send_response(found.status)
            self.send_header("location", f"{found.inner}/latest{self.path}")
            self.send_header("content-length", "0")
            self.end_headers()

        do_HEAD = do_GET

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (Allowed, Inner)]
    allowed, inner = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    found = Redirects(f"{allowed}/adapters", inner)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    for server in servers:
        server.shutdown()
        server.server_close()
