"""Starting a stage's process, taking its rows as they come, and ending it at its limit."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import child
from .context import Row
from .results import DONE, UNAVAILABLE

_GRACE_S = 3.0
"""Between asking a process to end and ending it."""


class StageProcess:
    """A stage's process and its rows. `fork` makes it a copy of this process: it starts at once, with all imports."""

    def __init__(self, job: dict[str, Any], log: Path, *, fork: bool) -> None:
        self._status: int | None = None
        read, write = os.pipe()
        with log.open("ab") as stream:
            self.pid = (self._fork if fork else self._start)(job, read, write, stream.fileno())
        os.close(write)
        self._rows = read

    def _fork(self, job: dict[str, Any], read: int, write: int, log: int) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child.forked(job, write, log)
        return pid

    def _start(self, job: dict[str, Any], read: int, write: int, log: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", child.__name__, str(write)], stdin=subprocess.PIPE, stdout=log, stderr=log,
            env={**os.environ, **job["environment"]}, pass_fds=[write], process_group=0, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(job, default=str))
        process.stdin.close()
        process.returncode = 0  # `wait` below reaps it
        return process.pid

    def wait(self, limit_s: float, keep: Callable[[Row], None]) -> str:
        """Give every row to `keep` until the process has ended. done, failed, unavailable, cut (at the limit) or killed
        (by a signal that is not ours)."""
        deadline, cut, buffer = time.monotonic() + limit_s, False, b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                signals = [signal.SIGTERM, signal.SIGKILL]
                self.signal(signals[cut])
                cut, deadline = True, time.monotonic() + _GRACE_S
                continue
            if not select.select([self._rows], [], [], min(left, 0.5))[0]:
                if self._ended():  # a process of its own may still hold the pipe
                    break
                continue
            if not (read := os.read(self._rows, 1 << 16)):
                break
            *lines, buffer = (buffer + read).split(b"\n")
            for line in lines:
                keep(json.loads(line))
        return self._end(cut, deadline)

    def _end(self, cut: bool, deadline: float) -> str:
        while not self._ended():  # its rows are closed: it is about to
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                cut = True
            time.sleep(0.01)
        os.close(self._rows)
        self.signal(signal.SIGKILL)  # what it started and left behind
        status = self._status or 0
        if cut:
            return "cut"
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return {0: DONE, child.UNAVAILABLE: UNAVAILABLE}.get(os.waitstatus_to_exitcode(status), "failed")

    def kill(self) -> None:
        """End it now, whatever it does."""
        self.signal(signal.SIGKILL)
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)

    def _ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    def signal(self, number: int) -> None:
        """To the process and all that it has started."""
        for send in (os.killpg, os.kill) if self._status is None else (os.killpg,):
            try:
                send(self.pid, number)
            except ProcessLookupError:  # gone, or not yet a group of its own
                continue
            else:
                break
