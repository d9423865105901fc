"""A client of HTTP/1.1 by hand: it says what no library would, as slowly as it likes, and reads what it likes."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress

from ..support.tokens import token_of

PATIENCE_S = 3
SHORT = 10_000
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


def said(port: int, requests: Iterable[Iterable[bytes]], quiet_s: float = 0.5) -> list[bytes]:
    """Say each on a connection of its own; what is answered until all have ended, or until nothing
    has come for `quiet_s`.

    An end in the middle of what is said is an end like another.
    """
    with ExitStack() as stack:
        opened = []
        for parts in requests:
            one = stack.enter_context(connect(port))
            opened.append(one)
            with suppress(OSError):
                for part in parts:
                    one.sendall(part)
        return heard(opened, quiet_s)


def heard(opened: Sequence[socket.socket], quiet_s: float) -> list[bytes]:
    got: dict[socket.socket, bytes] = dict.fromkeys(opened, b"")
    going = set(opened)
    # The first answer may take longer: the server has other work, too.
    while ready := select.select(going, (), (), quiet_s if any(got.values()) else PATIENCE_S)[0]:
        for one in ready:
            try:
                part = one.recv(1 << 16)
            except OSError:
                part = b""
            got[one] += part
            if not part:
                going.discard(one)
        if not going:
            break
    return list(got.values())


def statuses(answer: bytes) -> list[int]:
    """Those of the answers, the provisional ones left out."""
    return [int(code) for code in STATUS.findall(answer) if not code.startswith(b"1")]


def grouped(cases: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Short ones together in one attack, each long one by itself."""
    short = {name: data for name, data in cases.items() if len(data) < SHORT}
    long = {name: {name: data} for name, data in cases.items() if len(data) >= SHORT}
    return {f"{len(short)} short ones": short} | long


def drip(connections: Iterable[socket.socket], byte: bytes, every: float, seconds: float) -> None:
    """Say a byte now and then on each that is open."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for one in connections:
            with suppress(OSError):  # it is closed
                one.send(byte)
        time.sleep(every)


def vanish(one: socket.socket) -> None:
    """End it by a reset, as a machine that is gone does."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    one.close()
