"""Simulated time, and what is to happen when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Events:
    """Events in the order of their times; those of one time in the order in which they came."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def clock(self) -> float:
        return self.now

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Let something happen so many seconds from now."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._numbers), call))

    def run(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Let everything happen, as long as it is to go on."""
        while self._heap and goes_on():
            self.now, _, call = heapq.heappop(self._heap)
            call()

    def pass_by(self, seconds: float) -> None:
        """Let so many seconds go by, with what happens in them."""
        over: list[float] = []
        self.after(seconds, lambda: over.append(self.now))
        self.run(lambda: not over)
