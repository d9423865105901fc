"""HTTP/2 by hand: a client with a flow-control window that no library would have."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping

_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE = 4
_CANCEL = 8
ACK = struct.pack(">IBI", _SETTINGS, _ACK, 0)
"""Frame that takes the server's settings."""


def opening(window: int) -> bytes:
    """Begin a connection whose streams may be sent `window` bytes each."""
    settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings)


def call(
    stream: int, path: str, host: str, message: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """Begin a call of gRPC with one message; headers as HPACK literals (RFC 7541)."""
    block = b"\x83\x86\x04" + _text(path) + b"\x01" + _text(host)  # POST, http
    own = {"content-type": "application/grpc", "te": "trailers"}
    for name, value in (own | dict(headers or {})).items():
        block += b"\x00" + _text(name) + _text(value)
    body = b"\0" + struct.pack(">I", len(message)) + message
    return _frame(_HEADERS, _END_HEADERS, stream, block) + _frame(_DATA, _END_STREAM, stream, body)


def reset(stream: int) -> bytes:
    """End a call at once."""
    return _frame(_RESET, 0, stream, struct.pack(">I", _CANCEL))


async def stuck_call(port: int, path: str, message: bytes) -> asyncio.StreamWriter:
    """Begin a call whose answers may not be sent: its window is 0. Gives the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(opening(0) + call(1, path, "localhost", message))
    await writer.drain()
    while True:  # until the answer's headers have come: its message cannot
        size_and_kind, flags = struct.unpack(">IB4x", await reader.readexactly(9))
        size, kind = divmod(size_and_kind, 256)
        await reader.readexactly(size)
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(ACK)
        if kind == _HEADERS:
            return writer


def _frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    """Frame of RFC 9113, 4.1."""
    return struct.pack(">IBI", len(data) << 8 | kind, flags, stream) + data


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()
