"""The replicas as they are at this moment, asked at every look."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import structlog

from .page import Page, parse
from .targets import Address, Target, resolve

log = structlog.get_logger("loramux.placement")

PATH = "/metrics/placement"
_TIMEOUT_S = 3.0
"""For a page as a whole: the look waits for the slowest."""
_MOST_BYTES = 8 << 20
_THREADS = 64
_MISSES = 3
"""Looks in a row that a replica may not answer before it is gone."""


class Fleet:
    """Replicas behind some targets, with the last page of each."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self.pages: dict[str, Page] = {}
        """Last pages of those that live, by their names."""
        self.addresses: dict[str, Address] = {}
        """Their addresses."""
        self.failures = 0
        """Looks at a replica, or in the DNS, that failed."""
        self._of_targets: dict[Target, dict[str, Address]] = {}
        """What the DNS has; of a target that it no longer has what it had."""
        self._found: dict[str, Address] = {}
        """All of that."""
        self._misses: dict[str, int] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "loramux-placement-look")

    def look(self) -> None:
        """Ask the DNS and each replica. What does not answer once or twice is kept as it was; so is
        everything if nobody answers."""
        self._resolve()
        answers = dict(
            zip(self._found, self._threads.map(_fetch, self._found.values()), strict=True)
        )
        for name, answer in answers.items():
            self._note(name, answer)
        pages = {name: page for name in self._found if (page := self._page(name, answers[name]))}
        if pages:
            self.pages = pages
            self.addresses = {name: self._found[name] for name in pages}

    def _resolve(self) -> None:
        for target in self._targets:
            try:
                self._of_targets[target] = resolve(target)
            except OSError as error:
                self.failures += 1
                log.warning("replicas not found in the DNS", host=target.host, reason=str(error))
        self._found = {n: a for found in self._of_targets.values() for n, a in found.items()}
        self._misses = {name: self._misses.get(name, 0) for name in self._found}

    def _note(self, name: str, answer: Page | str) -> None:
        if isinstance(answer, Page):
            if self._misses[name]:
                log.info("replica answers again", replica=name)
            self._misses[name] = 0
            return
        self.failures += 1
        self._misses[name] += 1
        if self._misses[name] == 1:
            log.warning("replica does not answer", replica=name, reason=answer)

    def _page(self, name: str, answer: Page | str) -> Page | None:
        if isinstance(answer, Page):
            return answer
        return self.pages.get(name) if self._misses[name] < _MISSES else None


class _Limited(socket.socket):
    """A connection that is read until some moment, however little comes at a time."""

    def __init__(self, connected: socket.socket, end: float) -> None:
        super().__init__(fileno=connected.detach())
        self._end = end
        self._limit()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self._limit()
        return super().recv_into(buffer, nbytes, flags)

    def _limit(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)


def _read(address: Address) -> str:
    """Read the replica's page. Raises OSError, HTTPException, ValueError."""
    end = time.monotonic() + _TIMEOUT_S
    connection = http.client.HTTPConnection(address.ip, address.metrics, timeout=_TIMEOUT_S)
    with closing(connection):
        connection.connect()
        connection.sock = _Limited(connection.sock, end)
        connection.request("GET", PATH, headers={"connection": "close"})
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise ValueError(f"status {answer.status} for {PATH}")
            body = answer.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes for {PATH}")
            if answer.length:
                raise ValueError(f"{PATH} ends early")
    return body.decode()


def _fetch(address: Address) -> Page | str:
    """Give the replica's page, or why there is none."""
    try:
        return parse(_read(address))
    except http.client.RemoteDisconnected as error:
        return str(error)
    except http.client.BadStatusLine:  # with what came there, such as frames of HTTP/2
        return "no HTTP there: is it the metrics port?"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
