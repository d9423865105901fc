"""The end of the process, which threads that cannot be interrupted must not hold up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import structlog

from .logs import finish

log = structlog.get_logger("loramux.server")
PATIENCE_S = 3.0


def exit_now(status: int) -> None:
    """End the process at once, but for the log's last lines."""
    finish()
    os._exit(status)


def end_soon(status: int, exit_now: Callable[[int], object] = exit_now) -> threading.Thread:
    """End the process with `status` unless it has ended by itself after PATIENCE_S.

    Python waits at its exit for every thread of a pool, and so for downloads that hang. Nothing is
    lost: what a download leaves in the cache is removed by the next fetch.
    """

    def watch() -> None:
        time.sleep(PATIENCE_S)
        left = sorted(
            t.name
            for t in threading.enumerate()
            if not t.daemon and t is not threading.main_thread()
        )
        log.warning("loads are left unfinished", threads=len(left), names=left)
        exit_now(status)

    thread = threading.Thread(target=watch, name="loramux-end", daemon=True)
    thread.start()
    return thread
