"""The metrics port: Prometheus' own page and those for routers, with limits on who may hold a thread
of it, and how long."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

MAX_CONNECTIONS = 32
"""Connections at once: scrapers have one each."""
ROUTER_PATH = "/metrics/router"
PLACEMENT_PATH = "/metrics/placement"
Pages = Mapping[str, Callable[[], bytes]]
"""Makers of pages in the text format, by path."""
_IDLE_S = 5.0
"""Seconds that a connection may send nothing, or take nothing."""


class _Handler(WSGIRequestHandler):
    """Handler of one connection, which is kept: routers ask many times a second."""

    server: MetricsServer
    timeout = _IDLE_S
    protocol_version = "HTTP/1.1"

    # WSGI's own answers one request, in HTTP/1.0.
    handle = BaseHTTPRequestHandler.handle

    def parse_request(self) -> bool:
        # What has been sent away gets no page: half a request would be taken for one.
        if super().parse_request() and self.server.keeps(self.connection):
            return True
        self.close_connection = True
        return False

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is not None and self.command == "GET":
            self._answer("200 OK", [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)], page())
        else:
            self._run(self.server.get_app())

    do_HEAD = do_POST = do_OPTIONS = do_GET

    def _run(self, app: Any) -> None:
        told: list[tuple[str, list[tuple[str, str]]]] = []
        with self.server.making:
            page = b"".join(app(self.get_environ(), lambda *head: told.append(head)))
        ((status, headers),) = told
        self._answer(status, headers, page)

    def _answer(self, status: str, headers: list[tuple[str, str]], page: bytes) -> None:
        if {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # its body is not read
        headers = [
            *headers,
            ("Content-Length", str(len(page))),
            ("Connection", "close" if self.close_connection else "keep-alive"),
        ]
        lines = [f"HTTP/1.1 {status}", *(": ".join(header) for header in headers), "", ""]
        # At once: a second packet would wait until the first was acknowledged.
        self.wfile.write("\r\n".join(lines).encode() + (b"" if self.command == "HEAD" else page))

    def log_message(self, format: str, *args: Any) -> None:
        """Keep scrapes out of the log."""


class MetricsServer(WSGIServer):
    """Server of a few pages, with a thread for each connection.

    One connection more than MAX_CONNECTIONS ends the one that has asked for nothing for longest: a
    scrape is served at once, so that is one that holds its place.
    """

    request_queue_size = 2 * MAX_CONNECTIONS  # of 5, a burst's last ones come again after seconds

    def __init__(self, address: Any, handler: type[WSGIRequestHandler]) -> None:
        self.open_connections: OrderedDict[socket.socket, None] = OrderedDict()
        self.pages: Pages = {}
        """Pages beside Prometheus' own."""
        self.making = threading.Lock()
        """Of the other page, which takes long: many at once would leave steps no time."""
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def keeps(self, connection: socket.socket) -> bool:
        """Whether a connection that asks for a page was not sent away; it is the last to go then."""
        with self._lock:
            if connection not in self.open_connections:
                return False
            self.open_connections.move_to_end(connection)
            return True

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            while len(self.open_connections) >= MAX_CONNECTIONS:
                _end(self.open_connections.popitem(last=False)[0])
            self.open_connections[request] = None
        threading.Thread(
            target=self._serve, args=(request, client_address), name="loramux-metrics", daemon=True
        ).start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            # A client that goes away, or is sent away, is none of the log's business.
            with contextlib.suppress(OSError, ValueError):
                self.finish_request(request, client_address)
        finally:
            with self._lock:
                self.open_connections.pop(request, None)
            self.shutdown_request(request)

    def close(self) -> None:
        """Close in its own time: it looks twice a second whether it is to end."""

        def close() -> None:
            self.shutdown()
            self.server_close()

        threading.Thread(target=close, name="loramux-metrics-end", daemon=True).start()


class _MetricsServer6(MetricsServer):
    address_family = socket.AF_INET6


def start(host: str, port: int, registry: CollectorRegistry, pages: Pages) -> MetricsServer:
    """Serve the page of `registry`, and `pages` beside it, on a thread. Raises OSError for a port
    that cannot be had."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    kind = _MetricsServer6 if family == socket.AF_INET6 else MetricsServer
    server = make_server(host, port, make_wsgi_app(registry), kind, handler_class=_Handler)
    server.pages = pages
    threading.Thread(target=server.serve_forever, name="loramux-metrics", daemon=True).start()
    return server


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
