"""Threads that compute the masks of rows while steps run."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from .row import SLOW_S, RowGrammar

_QUICK_THREADS = max(2, min(4, (os.cpu_count() or 1) // 4))
_SLOW_THREADS = 1
_PATIENCE_S = 0.005
"""Seconds that a step waits for the masks of its quick rows, all together."""
MASK_S = 2.0
"""Seconds of the processor's that one mask may take: its row ends then."""
STUCK_S = 60.0
"""Seconds by the clock after which it ends, too, as it would where a lock is never let go of."""
_NICENESS = 19


class _Lane:
    """Rows whose masks are wanted, of owners that take turns."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, deque[RowGrammar]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._rows)

    def put(self, row: RowGrammar) -> None:
        self._rows.setdefault(row.owner, deque()).append(row)

    def take(self) -> RowGrammar:
        """The next row, of whose owner's turn it is."""
        owner, rows = self._rows.popitem(last=False)
        row = rows.popleft()
        if rows:
            self._rows[owner] = rows  # behind the others
        return row


class _Worker:
    """Thread of a lane, and the row that it works on."""

    def __init__(self, lane: _Lane) -> None:
        self.lane = lane
        self.row: RowGrammar | None = None
        self.began = self._began_cpu = 0.0
        self.is_replaced = False
        self.ident = self.native_id = 0

    def begin(self, row: RowGrammar) -> None:
        """Note what the thread that calls begins with."""
        self.row, self.began, self._began_cpu = row, time.monotonic(), time.thread_time()

    def is_overdue(self) -> bool:
        """Whether its row is to end. A busy machine is no row's fault: what counts is the time that
        the thread ran. Called while it has a row, and so lives."""
        if time.monotonic() - self.began > STUCK_S:
            return True
        clock = time.pthread_getcpuclockid(self.ident)
        return time.clock_gettime(clock) - self._began_cpu > MASK_S


class MaskThreads:
    """Computes masks; rows that are slow to compute wait for each other, and nobody for them.
    Owners of rows take turns.

    A mask that is not there when its step samples is late: its row sits steps out until it is. A
    thread that a quick row's mask holds up is replaced: it ends with that mask. What rows have that
    ended is freed by a thread that does nothing else. Threads start with the first row.
    """

    def __init__(self, on_late: Callable[[], object] = lambda: None) -> None:
        """`on_late` is called, by one of the threads, when a mask that was late is there."""
        self._on_late = on_late
        lock = threading.Lock()
        self._changed, self._settled = threading.Condition(lock), threading.Condition(lock)
        self._quick, self._slow, self._ended = _Lane(), _Lane(), _Lane()
        self._late: set[RowGrammar] = set()
        self._workers: list[_Worker] = []
        self._is_closed = False

    def start(self, rows: Iterable[RowGrammar]) -> None:
        """Begin with the masks of rows that are new, or have advanced."""
        with self._changed:
            if not self._workers:
                lanes = [self._quick] * _QUICK_THREADS + [self._slow] * _SLOW_THREADS
                for lane in (*lanes, self._ended):
                    self._start_thread(lane)
            for row in rows:
                row.is_begun = True
                (self._slow if row.is_slow else self._quick).put(row)
            self._changed.notify_all()

    def settle(self, rows: Iterable[RowGrammar]) -> list[RowGrammar]:
        """Wait for the masks of a step's rows, a little; those whose is not there then are late."""
        pending = [row for row in rows if not row.is_ready]
        if not pending:
            return []
        with self._changed:
            self._settled.wait_for(
                lambda: all(row.is_ready or row.is_slow for row in pending), _PATIENCE_S
            )
            pending = [row for row in pending if not row.is_ready]
            for row in pending:
                row.is_late = True
            self._late.update(pending)
            if pending:
                self._replace_stuck()
        return pending

    def drop(self, row: RowGrammar) -> None:
        """Compute nothing more for a row, and free what it has."""
        with self._changed:
            row.is_dropped = True
            if row.is_ready and not any(worker.row is row for worker in self._workers):
                self._free(row)  # else when a thread is done with it

    def overdue(self) -> list[RowGrammar]:
        """Late rows whose masks take longer than they may; nobody waits for those threads."""
        if not self._late:
            return []
        found = []
        with self._changed:
            for worker in list(self._workers):
                row = worker.row
                if row is not None and row in self._late and worker.is_overdue():
                    found.append(row)
                    self._replace(worker)
        return found

    def close(self) -> None:
        """End the threads. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _free(self, row: RowGrammar) -> None:
        self._ended.put(row)
        self._changed.notify_all()

    def _replace_stuck(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            row = worker.row
            if row is not None and worker.lane is self._quick and now - worker.began > SLOW_S:
                row.is_slow = True
                self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        if not worker.is_replaced:
            worker.is_replaced = True
            be_nice(worker.native_id)
            self._start_thread(worker.lane)

    def _start_thread(self, lane: _Lane) -> None:
        worker = _Worker(lane)
        self._workers.append(worker)
        threading.Thread(
            target=self._run, args=(worker,), name="loramux-masks", daemon=True
        ).start()

    def _run(self, worker: _Worker) -> None:
        worker.ident, worker.native_id = threading.get_ident(), threading.get_native_id()
        if worker.lane is self._slow:
            be_nice(worker.native_id)
        while (row := self._take(worker)) is not None:
            if worker.lane is self._ended:
                row.release()
                worker.row = None
                continue
            if not row.is_dropped:
                row.compute()
            with self._changed:
                worker.row = None
                if row.is_dropped:
                    self._free(row)
                was_late, row.is_late = row.is_late, False
                self._late.discard(row)
                self._settled.notify_all()
                if worker.is_replaced:
                    self._workers.remove(worker)
            if was_late:
                self._on_late()

    def _take(self, worker: _Worker) -> RowGrammar | None:
        """The next row of its lane; None where the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: worker.lane or worker.is_replaced or self._is_closed)
            if worker.is_replaced or self._is_closed:
                return None
            row = worker.lane.take()
            worker.begin(row)
            return row


def be_nice(native_id: int) -> None:
    """Let a thread have what processor time the others leave."""
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):  # a sandbox around it
            os.setpriority(os.PRIO_PROCESS, native_id, _NICENESS)
