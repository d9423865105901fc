"""Frames between a process and its workers: JSON behind its length, never pickled."""

from __future__ import annotations

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
    # Not as escapes, which take ten times as long to read: the interpreter is held meanwhile.
    data = json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    connection.sendall(_SIZE.pack(len(data)))
    connection.sendall(data)


def receive(connection: socket.socket, limit: int, deadline: float | None = None) -> Any:
    """Receive one value of at most `limit` bytes; None at the end of the connection.

    `deadline`: on the monotonic clock. Raises TimeoutError, BadFrameError, OSError.
    """
    head = _read(connection, _SIZE.size, deadline)
    if not head:
        return None
    size = _SIZE.unpack(head)[0] if len(head) == _SIZE.size else limit + 1
    if size > limit:
        raise BadFrameError
    data = _read(connection, size, deadline)
    if len(data) < size:
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
