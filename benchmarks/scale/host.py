"""A machine whose cores are shared by what runs on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .events import Events

_EPSILON_S = 1e-12


@dataclass(eq=False)
class _Job:
    left: float
    """Seconds of a core that it still needs."""
    weight: float
    done: Callable[[], object]
    rate: float = 1.0
    """Cores that it has now."""


class Host:
    """Cores shared out as a fair system does it: nobody gets more than one, and where there are too
    few, everybody a part by weight."""

    def __init__(self, events: Events, cores: int) -> None:
        self._events, self._cores = events, cores
        self._jobs: list[_Job] = []
        self._since = 0.0
        self._plan = 0
        self.busy_s = 0.0
        """Core seconds used so far."""

    def start(self, seconds: float, done: Callable[[], object], weight: float = 1.0) -> None:
        """Run something that takes so many seconds of a core; `done` is called at its end."""
        self._advance()
        self._jobs.append(_Job(seconds, weight, done))
        self._share_out()

    def _advance(self) -> None:
        elapsed = self._events.now - self._since
        self._since = self._events.now
        for job in self._jobs:
            used = elapsed * job.rate
            job.left -= used
            self.busy_s += used

    def _share_out(self) -> None:
        self._plan += 1
        if not self._jobs:
            return
        if len(self._jobs) > self._cores:
            self._ration()
        else:
            for job in self._jobs:
                job.rate = 1.0
        plan = self._plan
        wait = min(max(job.left, 0.0) / job.rate for job in self._jobs)
        self._events.after(wait, lambda: self._finish(plan))

    def _ration(self) -> None:
        """Give each its part by weight, those whose part would be more than a core one core."""
        cores = float(self._cores)
        rest = sorted(self._jobs, key=lambda job: -job.weight)
        weight = sum(job.weight for job in rest)
        for job in rest:
            job.rate = min(1.0, cores * job.weight / weight)
            cores, weight = cores - job.rate, weight - job.weight

    def _finish(self, plan: int) -> None:
        if plan != self._plan:  # something came or went meanwhile
            return
        self._advance()
        over = [job for job in self._jobs if job.left <= _EPSILON_S]
        self._jobs = [job for job in self._jobs if job.left > _EPSILON_S]
        self._share_out()
        for job in over:
            job.done()
