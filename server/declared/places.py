"""Places that declare adapters, read together: a manifest, a watched directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import structlog

from .types import DeclaredState, DeclaredStatus, Reading

log = structlog.get_logger("loramux.server")


class Place(Protocol):
    """A manifest or a watched directory."""

    def read(self) -> Reading: ...


class Places:
    """Places of one server, and what is wrong with them.

    The reconciler's lock guards all but `read`, which may take long.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._problems: dict[str, DeclaredStatus] = {}
        self._unread: list[str] = []
        self.looked = not places
        """True if each was looked at, whatever came of it."""
        self.complete = not places
        """True if each could be read at least once."""

    def read(self) -> list[Reading]:
        return [place.read() for place in self._places]

    def note(self, readings: Sequence[Reading]) -> None:
        """Note what was read; a line in the log for each problem that is new."""
        problems = {}
        for reading in readings:
            if not reading.problem:
                continue
            before = self._problems.get(reading.place)
            if before is None or before.error != reading.problem:
                before = _problem(reading)
            problems[reading.place] = before
        self._problems = problems
        self._unread = [reading.place for reading in readings if not reading.known]
        self.looked, self.complete = True, not self._unread

    def problems(self) -> list[DeclaredStatus]:
        """Status of each place that cannot be read."""
        return list(self._problems.values())

    def awaited(self, again: bool) -> list[DeclaredStatus]:
        """Status of each place that readiness waits for, see `Entry.is_awaited`.

        After a restart a look is enough: what an unreadable place declared is registered.
        """
        if not self.looked:
            return [DeclaredStatus("", "", DeclaredState.PENDING, error="not looked at yet")]
        return [] if again else [self._problems[place] for place in self._unread]


def _problem(reading: Reading) -> DeclaredStatus:
    log.error("declared adapters cannot be read", place=reading.place, error=reading.problem)
    return DeclaredStatus(
        "", reading.place, DeclaredState.FAILED, error=reading.problem, since=time.time()
    )
