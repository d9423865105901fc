"""A few threads for work that may take long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

import structlog

log = structlog.get_logger("loramux.server")


class Workers:
    """Threads that run jobs in the order given.

    They are daemons: a download that hangs does not hold up the exit.
    """

    def __init__(self, name: str, count: int) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Submit `job`. What it raises is logged: the next job has the thread then."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Stop: jobs that have not begun never will; does not wait for those that have."""
        # Not `while not empty()`: a thread may take the last one in between.
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:
                log.exception("work on declared adapters failed")
            del job
