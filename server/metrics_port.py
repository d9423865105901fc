"""The metrics port: Prometheus' own page and that for routers, with limits on who may hold a thread
of it, and how long."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

MAX_CONNECTIONS = 32
"""Connections at once: scrapers take one each for milliseconds."""
ROUTER_PATH = "/metrics/router"
_IDLE_S = 5.0
"""Seconds that a connection may send nothing, or take nothing."""


class _Handler(WSGIRequestHandler):
    """Handler of one connection: it is kept for routers, who ask many times a second, and ends with
    any other page."""

    server: MetricsServer
    timeout = _IDLE_S
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        self.close_connection = False
        while not self.close_connection:
            super().handle()

    def parse_request(self) -> bool:
        """Parse a request's head; True where it is not answered yet."""
        if not super().parse_request():
            return False
        if self.connection not in self.server.open_connections:
            # What has been sent away gets no page: half a request would be taken for one.
            self.close_connection = True
            return False
        if self.command != "GET" or self.path.partition("?")[0] != ROUTER_PATH:
            self.close_connection = True
            return True
        self._answer(self.server.router())
        return False

    def _answer(self, page: bytes) -> None:
        if {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # its body is not read
        head = (
            "HTTP/1.1 200 OK\r\n"
            f"Content-Type: {CONTENT_TYPE_PLAIN_0_0_4}\r\n"
            f"Content-Length: {len(page)}\r\n"
            f"Connection: {'close' if self.close_connection else 'keep-alive'}\r\n\r\n"
        )
        self.wfile.write(head.encode() + page)  # at once: a second packet would wait for the first

    def log_message(self, format: str, *args: Any) -> None:
        """Keep scrapes out of the log."""


class MetricsServer(WSGIServer):
    """Server of two pages, with a thread for each connection.

    One connection more than MAX_CONNECTIONS ends the oldest: a scrape is served at once, so that is
    one that holds its place.
    """

    request_queue_size = 2 * MAX_CONNECTIONS  # of 5, a burst's last ones come again after seconds

    def __init__(self, address: Any, handler: type[WSGIRequestHandler]) -> None:
        self.open_connections: OrderedDict[socket.socket, None] = OrderedDict()
        self.router: Callable[[], bytes] = bytes
        """Makes the page for routers."""
        self._lock = threading.Lock()
        super().__init__(address, handler)

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


def start(
    host: str, port: int, registry: CollectorRegistry, router: Callable[[], bytes]
) -> MetricsServer:
    """Serve the page of `registry`, and that of `router` for routers, on a thread. Raises OSError
    for a port that cannot be had."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    kind = _MetricsServer6 if family == socket.AF_INET6 else MetricsServer
    server = make_server(host, port, make_wsgi_app(registry), kind, handler_class=_Handler)
    server.router = router
    threading.Thread(target=server.serve_forever, name="loramux-metrics", daemon=True).start()
    return server


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
