"""What has come of a load so far."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from .call import OK, Call

_RECENT, _LONGEST_MESSAGE = 256, 300


class Recorder:
    """Ended calls, and those under way."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.running: set[Call] = set()
        self.not_sent = 0
        """Calls of an open loop that were due, and had no room until its end."""
        self.unfinished = 0
        """Calls under way when the load was cancelled."""
        self.started = self.ended = time.perf_counter()
        self.cpu_s = 0.0
        """Processor time of this process."""
        self.statuses: Counter[str] = Counter()
        self.errors: dict[str, str] = {}
        """The first message of each status."""
        self.recent: deque[Call] = deque(maxlen=_RECENT)
        self._tokens = 0

    def start(self) -> None:
        self.started, self.cpu_s = time.perf_counter(), -time.process_time()

    def end(self) -> None:
        """Note the end."""
        self.ended = time.perf_counter()
        self.cpu_s += time.process_time()

    @property
    def wall_s(self) -> float:
        return self.ended - self.started

    @contextmanager
    def calling(self, call: Call) -> Iterator[None]:
        """Count a call as running, and keep it when it has ended by itself."""
        self.running.add(call)
        try:
            yield
        except asyncio.CancelledError:
            self.unfinished += 1
            raise
        finally:
            self.running.discard(call)
        call.ended = time.perf_counter()
        self.calls.append(call)
        self.statuses[call.status] += 1
        if call.status != OK:
            self.errors.setdefault(call.status, call.message[:_LONGEST_MESSAGE])
            call.message = ""  # as many calls may fail as there is time for
        self.recent.append(call)
        self._tokens += call.tokens

    @property
    def failed(self) -> int:
        return len(self.calls) - self.statuses[OK]

    @property
    def tokens(self) -> int:
        """Tokens that have come, of calls under way too."""
        return self._tokens + sum(call.tokens for call in self.running)
