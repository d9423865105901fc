"""Starting a stage's process, taking its rows as they come, and ending it at its limit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import child
from .context import Row
from .results import DONE, UNAVAILABLE

_GRACE_S = 3.0
"""Between asking a process to end and ending it, and then until it is given up: one that waits for
a driver may not."""
_ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL)
STUCK = "stuck"


class StageProcess:
    """A stage's process and its rows. `fork` makes it a copy of this process: it starts at once,
    with all imports."""

    def __init__(self, job: dict[str, Any], log: Path, *, fork: bool) -> None:
        self._status: int | None = None
        self._lines: deque[bytes] = deque([b""])
        """Lines that nobody has got yet; the last one is not whole."""
        self._keep: Callable[[Row], None] = lambda row: None
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
            [sys.executable, "-m", child.__name__, str(write)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **job["environment"]},
            pass_fds=[write],
            process_group=0,
            text=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it may have ended, and its status will say so
            process.stdin.write(json.dumps(job, default=str))
            process.stdin.close()
        process.returncode = 0  # `wait` below reaps it
        return process.pid

    def wait(self, limit_s: float, keep: Callable[[Row], None]) -> str:
        """Give every row to `keep` until the process has ended. done, failed, unavailable, cut (at
        the limit), killed (by a signal that is not ours), or stuck: no signal ends it."""
        self._keep = keep
        deadline, cut = time.monotonic() + limit_s, 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                if cut == len(_ENDING):
                    return STUCK
                self.signal(_ENDING[cut])
                cut, deadline = cut + 1, time.monotonic() + _GRACE_S
                continue
            ended = self._ended()  # a process of its own may still hold the pipe
            if not select.select([self._rows], [], [], 0.0 if ended else min(left, 0.5))[0]:
                if ended:
                    break
                continue
            if not self._take():
                break
        return self._end(cut, deadline)

    def _take(self) -> bool:
        """Hand on what the pipe has, which must be something; False at its end. What an exception
        comes between is handed on by the next call."""
        read = os.read(self._rows, 1 << 16)
        self._lines.extend((self._lines.pop() + read).split(b"\n"))
        while len(self._lines) > 1:
            with contextlib.suppress(ValueError):  # of something else that writes there
                self._keep(json.loads(self._lines[0]))
            self._lines.popleft()
        return bool(read)

    def _end(self, cut: int, deadline: float) -> str:
        os.close(self._rows)
        self._rows = -1
        while not self._ended():  # its rows are closed: it is about to
            if time.monotonic() > deadline:
                if cut == len(_ENDING):
                    return STUCK
                self.signal(_ENDING[cut])
                cut, deadline = cut + 1, time.monotonic() + _GRACE_S
            time.sleep(0.01)
        self._end_group()
        status = self._status or 0
        if cut:
            return "cut"
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return {0: DONE, child.UNAVAILABLE: UNAVAILABLE}.get(
            os.waitstatus_to_exitcode(status), "failed"
        )

    def _end_group(self) -> None:
        """What it started and left behind: the next stage is to have all of the GPU's memory."""
        deadline = time.monotonic() + _GRACE_S
        while self.signal(signal.SIGKILL) and time.monotonic() < deadline:
            time.sleep(0.02)

    def kill(self) -> None:
        """End it now, whatever it does; its last rows are kept."""
        deadline = time.monotonic() + _GRACE_S
        while not self._ended() and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)
            time.sleep(0.01)
        self._end_group()
        while self._rows >= 0 and select.select([self._rows], [], [], 0.0)[0] and self._take():
            pass

    def _ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    def signal(self, number: int) -> bool:
        """To the process and all that it has started; whether anything is there."""
        for send in (os.killpg, os.kill) if self._status is None else (os.killpg,):
            try:
                send(self.pid, number)
            except ProcessLookupError:  # gone, or not yet a group of its own
                continue
            return True
        return False
