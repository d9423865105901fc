"""The engine thread's present turn, for other threads to look at."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq

from ..api.reports import RunningStep
from ..scheduling.batch import ScheduledRow


class Turn:
    """A turn: from the mail that the engine thread takes to the last word about its step.

    Written by that thread alone. Takes no lock: who looks at a step that hangs must not hang too.
    """

    def __init__(self) -> None:
        self._now: tuple[float, Seq[ScheduledRow]] | None = None

    def begin(self) -> None:
        self._now = time.monotonic(), ()

    def runs(self, rows: Seq[ScheduledRow]) -> None:
        """Say what the turn's step computes."""
        if self._now is not None:
            self._now = self._now[0], rows

    def end(self) -> None:
        self._now = None

    def report(self) -> RunningStep | None:
        """Report on the turn, None between turns. For any thread."""
        if (now := self._now) is None:
            return None
        began, rows = now
        used = {use.adapter_id for row in rows for use in row.sequence.handle.adapters}
        return RunningStep(
            age_s=time.monotonic() - began,
            tokens=sum(row.count for row in rows),
            sequences=len(rows),
            adapters=tuple(sorted(used)),
        )
