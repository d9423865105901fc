"""Frames between a process and its workers: JSON behind its length, never pickled."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from typing import Any

_SIZE = struct.Struct("!I")


class BadFrameError(Exception):
    """Error for an end in the middle of a frame, or one that is too long or no JSON."""


def send(connection: socket.socket, value: Any) -> None:
    """Send one value. Raises OSError as sockets do."""
    data = _encoded(value)
    connection.sendall(_SIZE.pack(len(data)))
    connection.sendall(data)


async def asend(connection: socket.socket, value: Any) -> None:
    """Send as `send` does, over a socket that does not block."""
    data = _encoded(value)
    await asyncio.get_running_loop().sock_sendall(connection, _SIZE.pack(len(data)) + data)


def receive(connection: socket.socket, limit: int, deadline: float | None = None) -> Any:
    """Receive one value of at most `limit` bytes; None at the end of the connection.

    `deadline`: on the monotonic clock. Raises TimeoutError, BadFrameError, OSError.
    """
    head = _read(connection, _SIZE.size, deadline)
    return _decoded(_read(connection, _size(head, limit), deadline), head) if head else None


async def areceive(connection: socket.socket, limit: int) -> Any:
    """Receive as `receive` does, over a socket that does not block."""
    head = await _aread(connection, _SIZE.size)
    return _decoded(await _aread(connection, _size(head, limit)), head) if head else None


def _encoded(value: Any) -> bytes:
    # Not as escapes, which take ten times as long to read: the interpreter is held meanwhile.
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _size(head: bytearray, limit: int) -> int:
    if len(head) < _SIZE.size or (size := _SIZE.unpack(head)[0]) > limit:
        raise BadFrameError
    return size


def _decoded(data: bytearray, head: bytearray) -> Any:
    if len(data) < _SIZE.unpack(head)[0]:
        raise BadFrameError
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadFrameError from error


def _read(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    """Read `size` bytes, or what there is until the end."""
    data, done = bytearray(size), 0
    while done < size:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        count = connection.recv_into(memoryview(data)[done:])
        if not count:
            return data[:done]
        done += count
    return data


async def _aread(connection: socket.socket, size: int) -> bytearray:
    """Read as `_read` does."""
    data, done, loop = bytearray(size), 0, asyncio.get_running_loop()
    while done < size:
        count = await loop.sock_recv_into(connection, memoryview(data)[done:])
        if not count:
            return data[:done]
        done += count
    return data
