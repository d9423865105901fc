"""A machine whose cores are shared by what runs on it, and what runs one thing after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .events import Events

_EPSILON_S = 1e-12


SWITCH_S = 0.005
"""CPython's switch interval: who holds the interpreter's lock gives it to who has waited so long."""


class Lock:
    """An interpreter's lock: one job at a time runs of those that need it, in turns."""

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        """The first one holds it."""
        self.turn = 0


@dataclass(eq=False)
class _Job:
    left: float
    """Seconds of a core that it still needs."""
    weight: float
    lock: Lock | None
    done: Callable[[], object]
    rate: float = 1.0
    """Seconds of a core that it gets in a second now."""


class Host:
    """Cores shared out as a fair system does it: nobody gets more than one, and where there are too
    few, everybody a part by weight."""

    def __init__(self, events: Events, cores: int, beside: float = 1.0) -> None:
        """`beside`: how many times longer things take where more than one core is busy."""
        self._events, self._cores, self._beside = events, cores, beside
        self._jobs: list[_Job] = []
        self._since = 0.0
        self._plan = 0

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
        job = _Job(seconds, weight, lock, done)
        if lock is None or self._gets(lock, job):
            self._jobs.append(job)
            self._share_out()

    def _gets(self, lock: Lock, job: _Job) -> bool:
        """Let a job wait for a lock; True if it has it at once."""
        lock.jobs.append(job)
        if len(lock.jobs) == 2:
            self._limit(lock)
        return len(lock.jobs) == 1

    def _limit(self, lock: Lock) -> None:
        """Take the lock from who holds it, if that is so in an interval's time."""
        holder = lock.jobs[0]
        lock.turn += 1
        turn = lock.turn
        self._events.after(SWITCH_S, lambda: self._switch(lock, holder, turn))

    def _switch(self, lock: Lock, holder: _Job, turn: int) -> None:
        if turn != lock.turn or len(lock.jobs) < 2 or lock.jobs[0] is not holder:
            return
        self._advance()
        if holder.left <= _EPSILON_S:  # its end is at this moment, too
            return
        self._jobs.remove(holder)
        lock.jobs.rotate(-1)
        self._jobs.append(lock.jobs[0])
        self._limit(lock)
        self._share_out()

    def _give_up(self, lock: Lock) -> None:
        lock.jobs.popleft()
        if lock.jobs:
            self._jobs.append(lock.jobs[0])
        if len(lock.jobs) > 1:
            self._limit(lock)

    def _advance(self) -> None:
        elapsed = self._events.now - self._since
        self._since = self._events.now
        for job in self._jobs:
            job.left -= elapsed * job.rate

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
        """Share the cores out by weight, one core at most to a job."""
        cores, rest = float(self._cores), sum(job.weight for job in self._jobs)
        for job in sorted(self._jobs, key=lambda job: -job.weight):
            part = min(1.0, cores * job.weight / rest)
            cores, rest = cores - part, rest - job.weight
            job.rate = part / self._beside

    def _finish(self, plan: int) -> None:
        if plan != self._plan:  # something came or went meanwhile
            return
        self._advance()
        over = [job for job in self._jobs if job.left <= _EPSILON_S]
        self._jobs = [job for job in self._jobs if job.left > _EPSILON_S]
        for job in over:
            if job.lock is not None:
                self._give_up(job.lock)
        self._share_out()
        for job in over:
            job.done()


class Thread:
    """Does one thing after the other, in the order in which they come: when it wakes, all that has
    come by then."""

    def __init__(self, host: Host, wake_s: float = 0.0, lock: Lock | None = None) -> None:
        """`wake_s`: seconds of a core that it takes to wake up."""
        self._host, self._wake_s, self._lock = host, wake_s, lock
        self._waiting: deque[tuple[float, Callable[[], object]]] = deque()
        self._is_busy = False

    def start(self, seconds: float, done: Callable[[], object]) -> None:
        """Take something on that takes so many seconds of a core."""
        self._waiting.append((seconds, done))
        if not self._is_busy:
            self._wake()

    def _wake(self) -> None:
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            batch, self._waiting = self._waiting, deque()
            self._next(batch, self._wake_s)

    def _next(self, batch: deque[tuple[float, Callable[[], object]]], before_s: float) -> None:
        if not batch:
            self._wake()
            return
        seconds, done = batch.popleft()
        self._host.start(before_s + seconds, lambda: self._end(batch, done), lock=self._lock)

    def _end(
        self, batch: deque[tuple[float, Callable[[], object]]], done: Callable[[], object]
    ) -> None:
        done()
        self._next(batch, 0.0)
