"""A machine whose cores are shared by what runs on it, and what runs one thing after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .events import Events

_EPSILON_S = 1e-12


class Lock:
    """An interpreter's lock: who needs it shares one core with all others who do. They have the same
    weight."""


@dataclass(eq=False)
class _Job:
    left: float
    """Seconds of a core that it still needs."""
    weight: float
    lock: Lock | None
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

    def start(
        self,
        seconds: float,
        done: Callable[[], object],
        *,
        weight: float = 1.0,
        lock: Lock | None = None,
    ) -> None:
        """Run something that takes so many seconds of a core; `done` is called at its end."""
        self._advance()
        self._jobs.append(_Job(seconds, weight, lock, done))
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
        jobs = self._jobs
        if not jobs:
            return
        if len(jobs) == 1:
            jobs[0].rate = 1.0
        else:
            self._ration()
        plan = self._plan
        wait = min(max(job.left, 0.0) / job.rate for job in jobs)
        self._events.after(wait, lambda: self._finish(plan))

    def _ration(self) -> None:
        """Share the cores out by weight, one core at most to a job or to those of one lock."""
        sharers: dict[object, list[_Job]] = {}
        for job in self._jobs:
            sharers.setdefault(job.lock or job, []).append(job)
        if len(sharers) <= self._cores:
            for jobs in sharers.values():
                for job in jobs:
                    job.rate = 1 / len(jobs)
            return
        parts = sorted(sharers.values(), key=lambda jobs: -jobs[0].weight)
        cores, rest = float(self._cores), sum(jobs[0].weight for jobs in parts)
        for jobs in parts:
            rate = min(1.0, cores * jobs[0].weight / rest)
            cores, rest = cores - rate, rest - jobs[0].weight
            for job in jobs:
                job.rate = rate / len(jobs)

    def _finish(self, plan: int) -> None:
        if plan != self._plan:  # something came or went meanwhile
            return
        self._advance()
        over = [job for job in self._jobs if job.left <= _EPSILON_S]
        self._jobs = [job for job in self._jobs if job.left > _EPSILON_S]
        self._share_out()
        for job in over:
            job.done()


class Thread:
    """Does one thing after the other, in the order in which they come."""

    def __init__(self, host: Host, lock: Lock | None = None) -> None:
        self._host, self._lock = host, lock
        self._waiting: deque[tuple[float, Callable[[], object]]] = deque()
        self._is_busy = False

    def start(self, seconds: float, done: Callable[[], object]) -> None:
        """Take something on that takes so many seconds of a core."""
        self._waiting.append((seconds, done))
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            seconds, done = self._waiting.popleft()
            self._host.start(seconds, lambda: self._end(done), lock=self._lock)

    def _end(self, done: Callable[[], object]) -> None:
        done()
        self._next()
