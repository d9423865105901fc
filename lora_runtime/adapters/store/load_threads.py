"""Threads on which adapters are fetched and read."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue

from ...errors import AdapterUnavailableError, EngineStoppedError

log = logging.getLogger(__name__)


class LoadThreads:
    """Runs work in the order given. The threads are daemons: a download that hangs does not hold up
    the exit. But one that is inside of a library when the interpreter ends may abort the process:
    `join` gives them time to end."""

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"loramux-load-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        self._work.put((work, done))
        return done

    def close(self) -> None:
        """Does not wait: what runs ends by itself, what has not begun fails with
        EngineStoppedError."""
        with contextlib.suppress(Empty):
            while True:
                if (item := self._work.get_nowait()) is not None:
                    item[1].set_exception(EngineStoppedError("the engine was shut down"))
        for _ in self._threads:
            self._work.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads, after `close`, at most for `timeout_s` seconds; False if one runs
        on."""
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        _step_back()
        while (item := self._work.get()) is not None:
            work, done = item
            try:
                _run(work, done)
            except BaseException:  # of who hears that it is done; others' work is to be done yet
                log.exception("a load's end was not heard")
            del item, work, done  # nothing of the last work stays alive while this waits


def _run(work: Callable[[], None], done: Future[None]) -> None:
    try:
        work()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)


_NOTHING: Future[None] = Future()
"""What is done before it begins: to make a future takes a lock, a condition and a list."""
_NOTHING.set_result(None)


def joined(reads: Sequence[tuple[str, Future[None]]]) -> Future[None]:
    """A future that is done when all `reads` are, each for an adapter id; it fails with the first
    that does.

    It is the caller's own, or one that is done: cancelling it leaves the reads to those who share
    them.
    """
    if not reads:
        return _NOTHING
    own: Future[None] = Future()
    left, lock = [len(reads)], threading.Lock()

    def one_done(adapter_id: str, read: Future[None]) -> None:
        error = read.exception()
        with lock, contextlib.suppress(InvalidStateError):  # cancelled, or failed before
            left[0] -= 1
            if error is not None:
                own.set_exception(
                    error.of(adapter_id) if isinstance(error, AdapterUnavailableError) else error
                )
            elif not left[0]:
                own.set_result(None)

    for adapter_id, read in reads:
        read.add_done_callback(lambda done, adapter_id=adapter_id: one_done(adapter_id, done))  # type: ignore[misc]
    return own


def _step_back() -> None:
    """Let the engine's threads go first where the system can do that for a single thread: Linux."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
