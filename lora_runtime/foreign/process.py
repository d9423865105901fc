"""The way to workers from the process that serves: started when first wanted, ended with the last
engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ..errors import LoramuxError
from . import frames
from .worker import READY

log = logging.getLogger(__name__)
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}\n"
    "from lora_runtime.foreign.worker import main; main(int(sys.argv[1]))"
)
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
"""Environment of workers: no more than they need, since it may hold secrets."""
_SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "critical",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_START_S = 60.0
_GRACE_S = 10.0
"""Seconds beyond the time limit until a worker that neither answers nor ends is given up."""


@dataclass(frozen=True)
class WorkLimits:
    """Limits of one task on strangers' files."""

    seconds: float = 60.0
    memory_bytes: int = 512 << 20
    """Memory beside what a worker starts with."""
    cpu_seconds: float | None = None
    """Seconds of computing, where a worker that waits for a core is not to be ended for that."""


class WorkError(LoramuxError):
    """The work failed: its text says how, to be put behind whose it was."""


class WorkTimeoutError(WorkError):
    """The work took longer than its limit; the worker is gone."""


class Worker:
    """Worker with a connection of its own; what it is asked for it does one after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, work: str, *arguments: Any, limits: WorkLimits, max_bytes: int) -> Any:
        """Result of a function by its name ("module:function"), of JSON values to a JSON value of
        at most `max_bytes`.

        The memory limit of the first call holds for all. Raises WorkError: refused, failed, out of
        memory, or too long; but for the first two the worker is closed then.
        """
        began = time.monotonic()
        try:
            self._connection.settimeout(limits.seconds + _GRACE_S)
            frames.send(self._connection, _task(work, arguments, limits))
            deadline = began + limits.seconds + _GRACE_S
            answer = frames.receive(self._connection, max_bytes, deadline)
        except (OSError, frames.BadFrameError):
            answer = None
        return self._result(answer, began, limits)

    async def aask(self, work: str, *arguments: Any, limits: WorkLimits, max_bytes: int) -> Any:
        """Ask as `ask` does, for small tasks on an event loop. Closes the worker if cancelled."""
        began = time.monotonic()
        try:
            self._connection.setblocking(False)
            async with asyncio.timeout(limits.seconds + _GRACE_S):
                await frames.asend(self._connection, _task(work, arguments, limits))
                answer = await frames.areceive(self._connection, max_bytes)
        except (OSError, frames.BadFrameError):
            answer = None
        except BaseException:
            self.close()
            raise
        return self._result(answer, began, limits)

    def _result(self, answer: Any, began: float, limits: WorkLimits) -> Any:
        if isinstance(answer, dict) and "result" in answer:
            return answer["result"]
        if isinstance(answer, dict) and (text := answer.get("refused") or answer.get("failed")):
            # Of a stranger's making: halves of characters cannot be told to anybody.
            raise WorkError(str(text)[:1000].encode(errors="backslashreplace").decode())
        self.close()
        most = limits.seconds if limits.cpu_seconds is None else limits.cpu_seconds
        if time.monotonic() - began >= most * 0.99:
            raise WorkTimeoutError(f"took longer than {most:g} s")
        raise WorkError(
            f"ended its process: it needs more than {limits.memory_bytes >> 20} MiB, or is at odds "
            "with a library"
        )

    def interrupt(self) -> None:
        """End the worker, while another thread waits for its answer."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the worker. Idempotent."""
        self.closed = True
        self.interrupt()
        self._connection.close()


def _task(work: str, arguments: tuple[Any, ...], limits: WorkLimits) -> dict[str, Any]:
    return {
        "work": work,
        "arguments": arguments,
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds or 0,
    }


class Use:
    """Somebody's use of the workers, until it is closed."""

    def __init__(self, workers: Workers) -> None:
        self._workers: Workers | None = workers

    def close(self) -> None:
        """End the use. Idempotent."""
        workers, self._workers = self._workers, None  # first: two threads may close it
        if workers is not None:
            workers.left()


class Workers:
    """The program that forks workers, for all engines of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held while the program starts; never for what an end waits for."""
        self._count = threading.Lock()
        self._users = self._ends = 0
        self._pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False

    def use(self) -> Use:
        """Count a user: the program ends when the last has closed what it got."""
        with self._count:
            self._users += 1
        return Use(self)

    def left(self) -> None:
        """Count one user less."""
        with self._count:
            self._users -= 1
            if self._users:
                return
            self._ends += 1
            if (process := self._process) is not None and self._pid == os.getpid():
                process.kill()  # who waits for its start, or for a worker, is told by that
        with self._lock:
            self._end()

    def start(self) -> None:
        """Start the program unless it runs, and do not wait for it."""
        with self._lock, contextlib.suppress(OSError):
            self._start()

    def worker(self) -> Worker:
        """A new worker. Raises WorkError if none can be had."""
        ends = self._ends
        for _ in range(2):  # a program that has ended is noticed when it is talked to
            with self._lock:
                try:
                    return Worker(self._fork())
                except OSError as error:
                    reason = error
                    self._end()
            if ends != self._ends:
                break
        raise WorkError(f"has no process to be done in: {reason}")

    def _fork(self) -> socket.socket:
        self._start()
        assert self._control is not None
        if not self._is_ready:
            _await_ready(self._control)
            self._is_ready = True
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [READY], [theirs.fileno()])
            _await_ready(ours)
        except BaseException:
            ours.close()
            raise
        return ours

    def _start(self) -> None:
        if self._pid != os.getpid():  # forked: the program is the other process's
            self._process = self._control = None
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            log.warning("the program of workers ended by itself, it is started again")
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(path=sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={k: v for k in _PASSED_ON if (v := os.environ.get(k)) is not None} | _SET,
            )
        self._control, self._pid, self._is_ready = ours, os.getpid(), False

    def _end(self) -> None:
        if self._pid != os.getpid():
            return
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()  # its workers go with it
            self._process.wait()
        self._process = self._control = None


def _await_ready(connection: socket.socket) -> None:
    connection.settimeout(_START_S)
    if connection.recv(1) != READY:
        raise OSError("the workers' program ended while it started")


WORKERS = Workers()
