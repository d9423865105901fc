"""A client of HTTP/2 by hand, which can leave the server without room to write."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..support import http2
from . import wire

_AT_ONCE = 200
WATCH = "/grpc.health.v1.Health/Watch"


@contextmanager
def calls_without_window(
    target: str,
    path: str = WATCH,
    message: bytes = b"",
    streams: int = 1,
    window: int = 0,
    headers: dict[str, str] | None = None,
) -> Iterator[socket.socket]:
    """Streams of `path` on one connection, whose answers may have `window` bytes and no more."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(http2.opening(window) + http2.ACK)
        for i in range(streams):
            connection.sendall(http2.call(2 * i + 1, path, target, message, headers))
        yield connection


def reset_calls(target: str, path: str, calls: int, message: bytes = b"") -> None:
    """Begin calls on one connection and reset each at once: none of them is ever open."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(http2.opening(65535) + http2.ACK)
        with contextlib.suppress(OSError):  # the server may have had enough
            for first in range(0, calls, _AT_ONCE):
                numbers = [2 * i + 1 for i in range(first, first + _AT_ONCE)]
                connection.sendall(
                    b"".join(http2.call(n, path, target, message) + http2.reset(n) for n in numbers)
                )
        time.sleep(0.3)


def watch_message(service: str) -> bytes:
    return wire.field(1, service)
