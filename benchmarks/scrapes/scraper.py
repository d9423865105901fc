"""A scraper as routers and Prometheus are: connections that stand, asked at a fixed rate."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Scrapes:
    """Scrapers of one page: `connections` of them, each `rate` times a second."""

    path: str
    rate: float
    connections: int
    port: str
    """Name of the server's port: http or metrics."""
    expected: bytes = b"vllm:lora_requests_info{"
    """What every page must have."""

    @property
    def per_s(self) -> float:
        return self.rate * self.connections


@dataclass
class Seen:
    """What the scrapers of one round saw."""

    seconds: list[float] = field(default_factory=list)
    """From asking to the whole page, of each scrape."""
    bytes: int = 0
    """Of the last page."""


@contextmanager
def scraping(scrapes: Scrapes | None, port: int) -> Iterator[Seen]:
    """Scrape while this is entered. Raises ValueError at its end for a page that was none."""
    seen, over, failures = Seen(), threading.Event(), list[Exception]()

    def run(scrapes: Scrapes, first_s: float) -> None:
        try:
            _scrape(scrapes, port, first_s, seen, over)
        except (OSError, ValueError) as error:
            failures.append(error)

    # Spread over a period, as those of machines of their own are.
    count = 0 if scrapes is None else scrapes.connections
    threads = [
        threading.Thread(target=run, args=(scrapes, (i + 0.5) / scrapes.per_s))
        for i in range(count)
        if scrapes is not None
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failures:
        raise ValueError(f"a scrape failed: {failures[0]}")


def _scrape(scrapes: Scrapes, port: int, first_s: float, seen: Seen, over: threading.Event) -> None:
    request = f"GET {scrapes.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    due = time.monotonic() + first_s
    connection = _connected(port)
    try:
        while not over.wait(max(0.0, due - time.monotonic())):
            asked = time.monotonic()
            if _has_ended(connection):
                connection = _connected(port)
            page, is_last = _page(connection, request)
            seen.seconds.append(time.monotonic() - asked)
            seen.bytes = len(page)
            if scrapes.expected not in page:
                raise ValueError(f"{scrapes.path} has no {scrapes.expected!r}")
            if is_last:
                connection.close()
                connection = _connected(port)
            due += 1 / scrapes.rate
    finally:
        connection.close()


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _has_ended(connection: socket.socket) -> bool:
    """Whether the server has ended it meanwhile, as it does with those that are idle for long."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(30)


def _page(connection: socket.socket, request: bytes) -> tuple[bytes, bool]:
    """One page, and whether its connection ends with it."""
    connection.sendall(request)
    head, length, answer = b"", -1, b""
    while len(answer) != length:
        part = connection.recv(1 << 18)
        answer += part
        if not head and _END_OF_HEAD in answer:
            head, _, answer = answer.partition(_END_OF_HEAD)
            length = _length(head)
        if not part and len(answer) < max(length, 1):
            raise ValueError("the server ended a connection")
    return answer, head.startswith(b"HTTP/1.0") or b"connection: close" in head.lower()


def _length(head: bytes) -> int:
    lines = [line.lower().partition(b":") for line in head.splitlines()]
    return next(int(value) for name, _, value in lines if name == b"content-length")
