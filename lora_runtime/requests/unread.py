"""Bound of what callers leave unread: tokens are computed whether or not anybody takes them.

A sequence could wait for its reader instead, but it would hold its KV blocks and its place
meanwhile. So a request is ended, far behind what a reader that stalls for seconds leaves.
"""

from __future__ import annotations

import threading
from weakref import WeakSet

from ..api.answers import TokenEvent

REQUEST_BYTES = 32 << 20
"""Unread bytes of one request, at most: some 110,000 tokens, or 10,000 with 20 logprobs each."""
TOTAL_BYTES = 256 << 20
"""Unread bytes of all requests together, from which on none may have more than SHARE_BYTES."""
SHARE_BYTES = 1 << 20
_EVENT_BYTES, _ENTRY_BYTES = 300, 130


class Backlogs:
    """What the requests of one engine have unread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[Backlog] = WeakSet()

    def open(self) -> Backlog:
        """Open the backlog of another request; it counts as long as it is referred to."""
        backlog = Backlog(self)
        with self._lock:
            self._open.add(backlog)
        return backlog

    def total(self) -> int:
        with self._lock:
            return sum(backlog.held for backlog in self._open)


class Backlog:
    """What one request has unread, under its handle's lock. `held`: about so many bytes."""

    def __init__(self, all_of_them: Backlogs) -> None:
        self.held = 0
        self._all, self._next_look = all_of_them, SHARE_BYTES

    def add(self, event: TokenEvent) -> bool:
        """Count an event; False if that is too much."""
        self.held += _size(event)
        if self.held < self._next_look:
            return True
        self._next_look = self.held + SHARE_BYTES  # all are added up once in a while
        return self.held <= REQUEST_BYTES and self._all.total() <= TOTAL_BYTES

    def take(self, event: TokenEvent) -> None:
        self.held -= _size(event)
        if not self.held:
            self._next_look = SHARE_BYTES

    def drop(self) -> None:
        self.held = 0


def _size(event: TokenEvent) -> int:
    entries = sum(1 + len(logprob.top) for logprob in event.logprobs)
    return _EVENT_BYTES + 2 * len(event.text) + _ENTRY_BYTES * entries
