"""A client of HTTP/2 by hand, which can leave the server without room to write."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from . import wire

_DATA, _HEADERS, _RESET, _SETTINGS, _ACK = 0, 1, 3, 4, 1
_CANCEL = struct.pack(">I", 8)
_AT_ONCE = 200
_INITIAL_WINDOW_SIZE = 4
WATCH = "/grpc.health.v1.Health/Watch"


def _frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    return (
        struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + data
    )


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def _call(path: str, host: str, headers: dict[str, str]) -> bytes:
    """HPACK without compression: method POST, scheme http, path, authority, then the rest."""
    block = b"\x83\x86\x04" + _text(path) + b"\x01" + _text(host)
    for name, value in {"content-type": "application/grpc", "te": "trailers", **headers}.items():
        block += b"\x00" + _text(name) + _text(value)
    return block


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
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))
        connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        body = b"\0" + struct.pack(">I", len(message)) + message
        for i in range(streams):
            number = 2 * i + 1
            begin = _frame(_HEADERS, 4, number, _call(path, target, headers or {}))
            connection.sendall(begin + _frame(_DATA, 1, number, body))
        yield connection


def reset_calls(target: str, path: str, calls: int, message: bytes = b"") -> None:
    """Begin calls on one connection and reset each at once: none of them is ever open."""
    host, _, port = target.rpartition(":")
    body = b"\0" + struct.pack(">I", len(message)) + message
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        header = _call(path, target, {})
        with contextlib.suppress(OSError):  # the server may have had enough
            for first in range(0, calls, _AT_ONCE):
                numbers = [2 * i + 1 for i in range(first, first + _AT_ONCE)]
                connection.sendall(
                    b"".join(
                        _frame(_HEADERS, 4, number, header)
                        + _frame(_DATA, 1, number, body)
                        + _frame(_RESET, 0, number, _CANCEL)
                        for number in numbers
                    )
                )
        time.sleep(0.3)


def watch_message(service: str) -> bytes:
    return wire.field(1, service)
