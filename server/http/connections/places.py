"""Places for connections: as many as there are, and who goes when one more comes."""

from __future__ import annotations

import resource
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Protocol


class Phase(Enum):
    """Phase of a connection."""

    HANDSHAKE = "handshake"
    NEW = "new"
    """Nothing has been sent yet."""
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    UNREAD = "unread"
    """What is answered waits for the client to take it."""
    IDLE = "idle"
    """Between requests."""
    REST = "rest"
    """Of a body whose request is answered already."""
    CLOSING = "closing"
    """The last bytes are on their way to who may not read them."""


MOST_S = {
    Phase.HANDSHAKE: 10.0,
    Phase.NEW: 10.0,
    Phase.HEAD: 10.0,
    Phase.BODY: 60.0,
    # Longer than load balancers keep connections, so that these end them, when they send nothing.
    Phase.IDLE: 75.0,
    Phase.REST: 10.0,
    Phase.UNREAD: 30.0,
    Phase.CLOSING: 5.0,
}
"""Seconds that a phase may take. For an answer the engine has limits of its own."""


_MOST_CONNECTIONS = 4096


def most_connections() -> int:
    """Most connections: half of what the system lets the process open at once, at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(_MOST_CONNECTIONS, files // 2)


class Holder(Protocol):
    """Holder of a place."""

    def give_way(self) -> None:
        """End at once."""


class Places:
    """Places of one port.

    One connection more than `most` ends the one that has waited longest: without a request first,
    then with a body that is not there yet, then with an answer that it does not read. Those whose
    requests are being answered stay.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[Holder, None] = {}
        self._sending: dict[Holder, None] = {}
        self._unread: dict[Holder, None] = {}
        self._answered: set[Holder] = set()

    def __len__(self) -> int:
        return sum(map(len, (*self._in_turn(), self._answered)))

    def _in_turn(self) -> tuple[dict[Holder, None], ...]:
        """Holders that make room, the first ones first."""
        return self._waiting, self._sending, self._unread

    def take(self, holder: Holder) -> bool:
        """Take a place; False if all are taken by those who stay."""
        if len(self) >= self._most:
            oldest = next(chain(*self._in_turn()), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.give_way()
        self._waiting[holder] = None
        return True

    def move(self, holder: Holder, phase: Phase) -> None:
        """Note that a holder's phase has begun."""
        self.leave(holder)
        if phase is Phase.ANSWER:
            self._answered.add(holder)
        elif phase is Phase.UNREAD:
            self._unread[holder] = None
        elif phase is Phase.BODY:
            self._sending[holder] = None
        else:
            self._waiting[holder] = None

    def leave(self, holder: Holder) -> None:
        for holders in self._in_turn():
            holders.pop(holder, None)
        self._answered.discard(holder)


@dataclass(frozen=True)
class Port:
    """Port that connections come to."""

    places: Places
    max_body_bytes: int
    on_refused: Callable[[int], None]
    """Called with the status of what was refused without a call."""
    tls: Callable[[], ssl.SSLContext] | None = None
