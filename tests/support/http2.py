"""HTTP/2 by hand: a client with a flow-control window that no library would have."""

from __future__ import annotations

import asyncio
import struct


async def stuck_call(port: int, path: str, message: bytes) -> asyncio.StreamWriter:
    """Begin a call of gRPC whose answers may not be sent: its window is 0. Gives the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, struct.pack(">HI", 4, 0)))
    writer.write(_frame(1, 4, 1, _headers(path)))
    writer.write(_frame(0, 1, 1, b"\0" + struct.pack(">I", len(message)) + message))
    await writer.drain()
    while True:  # until the answer's headers have come: its message cannot
        size_and_kind, flags = struct.unpack(">IB4x", await reader.readexactly(9))
        size, kind = divmod(size_and_kind, 256)
        await reader.readexactly(size)
        if kind == 4 and not flags & 1:
            writer.write(_frame(4, 1, 0, b""))
        if kind == 1:
            return writer


def _frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    """Frame of RFC 9113, 4.1."""
    return (
        struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + data
    )


def _headers(path: str) -> bytes:
    """Headers of a call as HPACK literals (RFC 7541)."""
    post, http = b"\x83", b"\x86"
    named = {b"\x04": path, b"\x01": "localhost", b"\x0f\x10": "application/grpc"}
    known = b"".join(index + _text(value) for index, value in named.items())
    return post + http + known + b"\x00" + _text("te") + _text("trailers")


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()
