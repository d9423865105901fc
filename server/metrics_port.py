"""The metrics port: Prometheus' own page, with limits on who may hold a thread of it, and how long."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import OrderedDict
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_CONNECTIONS = 32
"""Connections at once: scrapers take one each for milliseconds."""
_IDLE_S = 5.0
"""Seconds that a connection may send nothing, or take nothing."""


class _Handler(WSGIRequestHandler):
    server: MetricsServer
    timeout = _IDLE_S

    def parse_request(self) -> bool:
        # What has been sent away gets no page: half a request would be taken for one.
        return super().parse_request() and self.connection in self.server.open_connections

    def log_message(self, format: str, *args: Any) -> None:
        """Keep scrapes out of the log."""


class MetricsServer(WSGIServer):
    """Server of one page, with a thread for each connection.

    One connection more than MAX_CONNECTIONS ends the oldest: a scrape is served at once, so that is
    one that holds its place.
    """

    request_queue_size = 2 * MAX_CONNECTIONS  # of 5, a burst's last ones come again after seconds

    def __init__(self, address: Any, handler: type[WSGIRequestHandler]) -> None:
        self.open_connections: OrderedDict[socket.socket, None] = OrderedDict()
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


def start(host: str, port: int, registry: CollectorRegistry) -> MetricsServer:
    """Serve the page of `registry` on a thread. Raises OSError for a port that cannot be had."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    kind = _MetricsServer6 if family == socket.AF_INET6 else MetricsServer
    server = make_server(host, port, make_wsgi_app(registry), kind, handler_class=_Handler)
    threading.Thread(target=server.serve_forever, name="loramux-metrics", daemon=True).start()
    return server


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
