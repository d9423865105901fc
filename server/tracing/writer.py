"""A bounded queue of ended requests, whose spans one thread makes: the engine's has no time for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue

import structlog

from ..logs import allowed
from .request import RequestEnd

log = structlog.get_logger("loramux.server")
SIZE = 2048
"""Requests whose spans are not made yet; later ones have none."""


class SpanWriter:
    """Writer whose callers never wait."""

    def __init__(self, write: Callable[[RequestEnd], None], size: int = SIZE) -> None:
        self._write = write
        self._ends: Queue[RequestEnd | None] = Queue(size)
        self._is_stopping = False
        self.dropped = self._told = 0
        self._thread = threading.Thread(target=self._run, name="loramux-traces", daemon=True)
        self._thread.start()

    def put(self, end: RequestEnd) -> None:
        try:
            self._ends.put_nowait(end)
        except Full:
            self.dropped += 1

    def stop(self, timeout_s: float) -> None:
        """Make the spans of what has ended so far, if that takes no longer; later ends are lost."""
        self._is_stopping = True
        with suppress(Full):
            self._ends.put_nowait(None)  # wakes it
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                end = self._ends.get(block=not self._is_stopping)
            except Empty:
                return
            try:
                if end is not None:
                    self._write(end)
            except Exception:
                log.exception("the spans of a request cannot be made")
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self.dropped
        if dropped != self._told and allowed("requests without spans"):
            log.warning("requests without spans", count=dropped - self._told)
            self._told = dropped
