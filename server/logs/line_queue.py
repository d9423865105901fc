"""A bounded queue of rendered lines, which one thread writes.

Whoever logs never waits for who reads: a pipe that nobody empties costs lines, which are counted.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue

SIZE = 8192
RESERVED = 2048
"""Places that only warnings and worse may take: a flood of other lines leaves room for them."""
_GATHER_S = 0.02
"""Seconds that a line waits for others; a warning waits for none."""
_TOGETHER = select.PIPE_BUF
"""Bytes of lines that are written together: a pipe takes so many at once, whoever else writes to it."""
_TELL_S = 1.0
"""Least seconds between two lines that tell how many were dropped."""


class LineQueue(logging.Handler):
    """Handler that writes lines to a file descriptor on a thread of its own.

    Lines are rendered by who logs, since what they show may change later.
    """

    def __init__(self, fd: int, size: int = SIZE, reserved: int = RESERVED) -> None:
        super().__init__()
        self._fd, self._size, self._reserved = fd, size, reserved
        # A signal's handler may log in the middle of each: an Event's lock would wait for itself.
        self._lines: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._counting = threading.RLock()
        self._hurry: SimpleQueue[None] = SimpleQueue()
        """Something, where the lines so far shall wait for no others."""
        self._dropped = self._told = 0
        self._taken = 0
        """Lines that the thread has and has not written."""
        self._told_at = 0.0
        threading.Thread(target=self._write_all, name="loramux-log", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: the queue was full, or writing failed."""
        return self._dropped

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a line, without the handler's lock: nobody waits while another's is rendered."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._has_room(record.levelno):
            return
        try:
            self._lines.put(self.format(record))
        except Exception:
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self._write_soon()

    def put(self, line: str) -> None:
        """Take a line that is rendered, and no warning."""
        if self._has_room(logging.INFO):
            self._lines.put(line)

    def _has_room(self, level: int) -> bool:
        """Whether there is room for another line; False counts it."""
        room = self._size if level >= logging.WARNING else self._size - self._reserved
        if self._lines.qsize() + max(0, self._taken - 1) < room:
            return True
        self._drop()
        return False

    def finish(self, timeout_s: float) -> bool:
        """Wait until the lines so far are written; False if they are not in time."""
        written = threading.Event()
        self._lines.put(written)
        self._write_soon()
        return written.wait(timeout_s)

    def _write_soon(self) -> None:
        """End the wait for others, of lines that are in the queue."""
        if self._hurry.empty():  # one is enough: it is taken before the lines are
            self._hurry.put(None)

    def _drop(self, lines: int = 1) -> None:
        with self._counting:
            self._dropped += lines

    def _write_all(self) -> None:
        item: str | threading.Event | None = None
        while True:
            if item is None:
                item = self._lines.get()
                self._gather()
            if isinstance(item, threading.Event):
                item.set()
                item = None
                continue
            text, item = self._gathered(item)
            if self._write(text):
                self._tell_dropped()
            else:
                self._drop(self._taken)
            self._taken = 0

    def _gather(self) -> None:
        """Wait for other lines: each wake-up of this thread takes the interpreter from the others."""
        with suppress(Empty):
            self._hurry.get(timeout=_GATHER_S)
            while True:
                self._hurry.get_nowait()

    def _gathered(self, first: str) -> tuple[str, str | threading.Event | None]:
        """Join lines that wait to one write, and give what comes behind them; None if nothing does."""
        lines, size = [first], len(first)
        self._taken = 1
        while True:
            try:
                item = self._lines.get_nowait()
            except Empty:
                return "\n".join(lines), None
            if isinstance(item, threading.Event) or (size := size + 1 + len(item)) >= _TOGETHER:
                return "\n".join(lines), item
            lines.append(item)
            self._taken += 1

    def _tell_dropped(self) -> None:
        dropped, now = self._dropped, time.monotonic()
        too_soon = now < self._told_at + _TELL_S and not self._lines.empty()
        if dropped == self._told or too_soon:
            return
        text = "log lines dropped"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        record.count = dropped - self._told
        if self._write(self.format(record)):
            self._told, self._told_at = dropped, now

    def _write(self, line: str) -> bool:
        left = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                # Somebody else made the other end's file non-blocking.
                waiting = select.poll()
                waiting.register(self._fd, select.POLLOUT)
                waiting.poll()
            except OSError:  # the reader is gone, or the disk is full
                return False
        return True
