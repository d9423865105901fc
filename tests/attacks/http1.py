"""A client of HTTP/1.1 by hand: it says what no library would, as slowly as it likes, and reads what it likes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from ..support.tokens import token_of

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def head(method: str, path: str, headers: Mapping[str, object], caller: str = "") -> bytes:
    """The beginning of a request, up to its body."""
    own: dict[str, object] = {"host": "localhost"}
    if caller:
        own["authorization"] = f"Bearer {token_of(caller)}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in (own | dict(headers)).items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def post(path: str, body: bytes, caller: str = "", **headers: object) -> bytes:
    """A whole request with JSON."""
    own = {"content-type": "application/json", "content-length": len(body)}
    return head("POST", path, own | headers, caller) + body


def connect(port: int, room: int = 0) -> socket.socket:
    """A connection; `room`: bytes that may wait to be read."""
    one = socket.socket()
    if room:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    one.settimeout(10)
    one.connect(("127.0.0.1", port))
    return one


def said(port: int, parts: Iterable[bytes], seconds: float = 3) -> bytes:
    """What is answered until the connection's end, or until nothing has come for `seconds`.

    An end in the middle of what is said is an end like another.
    """
    with connect(port) as one:
        with suppress(OSError):
            for part in parts:
                one.sendall(part)
        return read(one, seconds)


def read(one: socket.socket, seconds: float) -> bytes:
    got = bytearray()
    one.settimeout(seconds)
    with suppress(OSError):
        while part := one.recv(1 << 16):
            got += part
    return bytes(got)


def statuses(answer: bytes) -> list[int]:
    """Those of the answers, the provisional ones left out."""
    return [int(code) for code in STATUS.findall(answer) if not code.startswith(b"1")]


def drip(connections: Iterable[socket.socket], byte: bytes, every: float, seconds: float) -> None:
    """Say a byte now and then on each that is open."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for one in connections:
            with suppress(OSError):
                one.send(byte)
        time.sleep(every)


def vanish(one: socket.socket) -> None:
    """End it by a reset, as a machine that is gone does."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    one.close()
