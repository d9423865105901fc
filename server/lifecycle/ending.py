"""The end of the process, which nothing that hangs must hold up."""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import structlog

from ..logs import finish

log = structlog.get_logger("loramux.server")
PATIENCE_S = 1.0
"""Seconds for threads to end by themselves."""
STEP_S = 0.5
"""Seconds for a step to end whose requests have had their time."""
STOP_S = 10.0
"""Seconds in which a stop ends, with a step that hangs, after running requests had theirs."""
_LOG_S = 1.0
_LAST_S = 3.0
"""Seconds after which even what ends the process is given up: more than the log takes."""


def end_by(seconds: float, status: int) -> threading.Thread:
    """End the process with `status` in `seconds`, whatever it waits for then.

    For the first signal: nothing that a client, a device or a disk does may keep the process.
    """
    # Code that never lets go of the interpreter lets no thread run that could end the process. The
    # traceback is no line of the log.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    faulthandler.dump_traceback_later(seconds + _LAST_S, exit=True, file=nowhere)
    return _end_in(seconds, status, "the stop took too long and is cut off", lambda t: True)


def end_soon(status: int) -> threading.Thread:
    """End the process with `status` unless it has ended by itself after PATIENCE_S.

    Python waits at its exit for every thread of a pool, and so for downloads that hang. Nothing is
    lost: what a download leaves in the cache is removed by the next fetch.
    """
    return _end_in(PATIENCE_S, status, "loads are left unfinished", lambda t: not t.daemon)


def leave(status: int) -> NoReturn:
    """End the process in Python's way but for its last part: to take apart every module takes a
    second with torch, and gives nothing back that the system does not take by itself."""
    # Longer than `end_soon` has patience: what is registered for the exit would close a download's
    # connections below it, and it would be logged as a load that failed.
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(PATIENCE_S + _LOG_S)
    atexit.unregister(finish)  # comes last, and waits once where nobody reads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    end_now(status)


def _end_in(
    seconds: float, status: int, says: str, counts: Callable[[threading.Thread], bool]
) -> threading.Thread:
    def watch() -> None:
        time.sleep(seconds)
        left = sorted(
            t.name
            for t in threading.enumerate()
            if counts(t) and t is not threading.main_thread() and t is not thread
        )
        # Beside this thread: whoever reads the log may have stopped to.
        line = threading.Thread(
            target=log.warning, args=(says,), kwargs={"threads": len(left), "names": left}
        )
        line.daemon = True
        line.start()
        line.join(_LOG_S)
        end_now(status)

    thread = threading.Thread(target=watch, name="loramux-end", daemon=True)
    thread.start()
    return thread


def end_now(status: int) -> NoReturn:
    """End this process but for the log's last lines, and those that it started: a stopped one would
    not notice."""
    finish()
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(status)
