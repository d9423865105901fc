"""A limit of lines by reason: what comes in floods is counted, and told once in a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger("loramux.server")
PER_S = 10.0
"""Lines a second, and at once, for each reason."""
TELL_S = 10.0
"""Seconds after which lines that were left out are told of."""


@dataclass
class _Budget:
    lines: float
    at: float
    left_out: int = 0


class LineLimit(logging.Filter):
    """Limit of log lines. Reasons for them are few: each has a budget that stays.

    As a logger's filter it takes the place in the source for the reason.
    """

    def __init__(
        self,
        per_s: float = PER_S,
        tell_s: float = TELL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._per_s, self._tell_s, self._clock = per_s, tell_s, clock
        self._budgets: dict[str, _Budget] = {}
        # A signal's handler may come here in the middle.
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None

    def allows(self, reason: str) -> bool:
        """True if a line may be logged now; False counts it."""
        with self._lock:
            now = self._clock()
            budget = self._budgets.setdefault(reason, _Budget(self._per_s, now))
            budget.lines = min(self._per_s, budget.lines + (now - budget.at) * self._per_s)
            budget.at = now
            if budget.lines >= 1:
                budget.lines -= 1
                return True
            budget.left_out += 1
            self._tell_later()
            return False

    def filter(self, record: logging.LogRecord) -> bool:
        return self.allows(f"{record.name}:{record.lineno}")

    def tell(self) -> None:
        """Log how many lines were left out since the last time."""
        with self._lock:
            self._timer = None
            left_out = {r: b.left_out for r, b in self._budgets.items() if b.left_out}
            for reason in left_out:
                self._budgets[reason].left_out = 0
        for reason, lines in left_out.items():
            log.warning("refusals not logged", reason=reason, count=lines)

    def _tell_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._tell_s, self.tell)
            self._timer.daemon = True
            self._timer.start()


LIMIT = LineLimit()
"""Limit of all refusals of this process, as there is one log."""


def allowed(kind: str) -> bool:
    """True if a line of this kind, of which there are few, may be logged now; else it counts."""
    return LIMIT.allows(kind)


def limited(event: str, kind: str, /, level: int = logging.WARNING, **fields: Any) -> None:
    """Log a line if one of its kind may be logged now."""
    if allowed(kind):
        log.log(level, event, **fields)
