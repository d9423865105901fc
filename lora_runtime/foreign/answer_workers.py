"""Workers that read answers, by the template that they read by."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from ..errors import EngineStoppedError
from .process import Worker, WorkLimits

log = logging.getLogger(__name__)
_IDLE_WORKERS = 32
"""Workers kept for as many streams at once, some 5 MB each: to fork them anew, at their priority,
takes a loaded machine a second."""
_LOG_EVERY_S = 60.0


class AnswerWorkers:
    """Workers that read answers: one a request, kept for the next with the same template."""

    def __init__(self, limits: WorkLimits) -> None:
        self.limits = limits
        self.opening = ThreadPoolExecutor(2, "loramux-answers")
        """Threads on which event loops have workers forked: that takes some milliseconds."""
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, list[Worker]] = OrderedDict()
        self._closed = False
        self._logged = -_LOG_EVERY_S

    def take(self, key: str) -> Worker | None:
        """A worker that has read by this template, if there is one that nobody uses."""
        with self._lock:
            if self._closed:
                raise EngineStoppedError("the engine is shutting down")
            if (idle := self._idle.get(key)) is None:
                return None
            worker = idle.pop()
            if not idle:
                del self._idle[key]
            return worker

    def give_back(self, key: str, worker: Worker) -> None:
        with self._lock:
            if not worker.closed:
                self._idle.setdefault(key, []).append(worker)
                self._idle.move_to_end(key)
            over = sum(map(len, self._idle.values())) - (0 if self._closed else _IDLE_WORKERS)
            for _ in range(over):
                oldest = next(iter(self._idle))
                self._idle[oldest].pop().close()
                if not self._idle[oldest]:
                    del self._idle[oldest]

    def note(self, error: Exception) -> None:
        """Log that answers could not be read, once in a while."""
        now = time.monotonic()
        if now - self._logged > _LOG_EVERY_S:
            self._logged = now
            log.warning("an answer's message is left as text: its response template %s", error)

    def close(self) -> None:
        """End those that nobody uses, and each of the others when it is given back. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, OrderedDict()
        for worker in (worker for workers in idle.values() for worker in workers):
            worker.close()
        self.opening.shutdown(wait=False)
