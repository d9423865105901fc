"""Program that forks workers: each does on strangers' files what it is asked for, under limits.

process.py runs it. It touches no such file itself, has no torch and no thread, and forks faster
than Python and transformers could start: a worker that its limits end costs nobody a start.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from . import frames

READY = b"+"
MAX_TASK_BYTES = 1 << 30
"""Largest task: it comes from the process that serves, which limits what it takes from callers."""
_NICENESS = 10
_PARENT_CHECK_MS = 5000
_PR_SET_PDEATHSIG = 1
_MAX_FILE_BYTES = 1 << 30
# What work imports: done once, before the forks.
_WARM = (
    "transformers.utils.chat_template_utils",
    "transformers.utils.chat_parsing",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
    "transformers.convert_slow_tokenizer",
    "llguidance",
)


class RefusedError(Exception):
    """Error whose text is for whoever sent the files."""


def main(handle: int) -> None:
    """Fork a worker for each connection that comes over the socket `handle`, until its end."""
    control = socket.socket(fileno=handle)
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever serves decides when to end
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # and the system takes the dead away
    os.nice(_NICENESS)
    sys.modules["torch"] = None  # type: ignore[assignment]
    die_with_parent = _death_signal()
    for name in _WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that workers share these pages
    control.sendall(READY)
    ready = select.poll()
    ready.register(control, select.POLLIN)
    while os.getppid() == parent:
        if not ready.poll(_PARENT_CHECK_MS):
            continue
        data, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        for taken in handles:
            if os.fork() == 0:
                _work(control, taken, die_with_parent)
            os.close(taken)


def _work(control: socket.socket, handle: int, die_with_parent: Callable[[], None]) -> None:
    """Do the tasks of one connection, and end this process."""
    try:
        die_with_parent()
        control.close()
        serve(socket.socket(fileno=handle))
    finally:
        os._exit(0)


def serve(connection: socket.socket) -> None:
    """Answer tasks one after the other; the first sets the limit of memory."""
    confined = False
    connection.sendall(READY)
    while (task := frames.receive(connection, MAX_TASK_BYTES)) is not None:
        if not confined:
            confine(task["memory_bytes"])
            confined = True
        # Unhandled, the signals end the process, also inside a C function that never returns.
        signal.setitimer(signal.ITIMER_REAL, task["seconds"])
        signal.setitimer(signal.ITIMER_PROF, task["cpu_seconds"])
        answer = answer_to(task)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        frames.send(connection, answer)


def answer_to(task: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": resolve_name(task["work"])(*task["arguments"])}
    except RefusedError as error:
        return {"refused": str(error)}
    except BaseException as error:  # panics of Rust's libraries too
        return {"failed": f"{type(error).__name__}: {error}"[:1000]}


def confine(memory_bytes: int) -> None:
    """Limit this process to `memory_bytes` more than it has, and let it be the first to go."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    try:
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:  # no Linux, or a sandbox around it
        size = 1 << 30
    _lower(resource.RLIMIT_AS, size + memory_bytes)


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _death_signal() -> Callable[[], None]:
    """Function for a fork: it ends with this process, however that ends."""
    parent = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def ask() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)

    return ask
