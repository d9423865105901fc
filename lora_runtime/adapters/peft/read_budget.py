"""Limit of the bytes of adapters' tensors that are being read at once, by all threads together."""

from __future__ import annotations

import threading
from collections import deque

from ...errors import EngineStoppedError


class ReadBudget:
    """Bytes that readings share, first come, first served. Thread-safe.

    One reading of any size goes alone, so a file over the limit waits and is not refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.changed = threading.Condition()
        self.waiting: deque[ReadShare] = deque()
        self.closed = False

    def share(self) -> ReadShare:
        """Give one reading its share, of no bytes yet."""
        return ReadShare(self)

    def close(self) -> None:
        """End what waits, and soon what reads, with EngineStoppedError."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class ReadShare:
    """One reading's part of a budget."""

    def __init__(self, budget: ReadBudget) -> None:
        self._budget, self._taken = budget, 0

    def take(self, size: int) -> None:
        """Wait until `size` bytes may be read. Raises EngineStoppedError."""
        budget = self._budget
        with budget.changed:
            budget.waiting.append(self)
            try:
                budget.changed.wait_for(lambda: budget.closed or self._is_next(size))
                self.check()
                budget.used += size
                self._taken += size
            finally:
                budget.waiting.remove(self)
                budget.changed.notify_all()

    def check(self) -> None:
        """Check that reading may go on. Raises EngineStoppedError."""
        if self._budget.closed:
            raise EngineStoppedError("the engine was shut down")

    def give_back(self) -> None:
        """Give the bytes back; what was read is let go of, or is counted elsewhere now."""
        with self._budget.changed:
            self._budget.used -= self._taken
            self._taken = 0
            self._budget.changed.notify_all()

    def _is_next(self, size: int) -> bool:
        budget = self._budget
        fits = not budget.used or budget.used + size <= budget.limit
        return budget.waiting[0] is self and fits
