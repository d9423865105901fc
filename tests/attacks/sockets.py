"""Connections that say what they like."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

AT_ONCE = 100
"""Connections of a moment: of more than the kernel queues, others' begin a second later."""


@contextmanager
def connections(port: int, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """As many as the server takes, up to `count`; each says `said` and no more."""
    with ExitStack() as stack:
        opened = []
        for i in range(count):
            if i % AT_ONCE == AT_ONCE - 1:
                time.sleep(0.05)
            try:
                one = socket.create_connection(("127.0.0.1", port), timeout=5)
            except OSError:  # no more are taken
                break
            opened.append(stack.enter_context(one))
            try:
                one.sendall(said)
            except OSError:  # closed already
                continue
        yield opened


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it, whatever it said before."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            continue
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True
