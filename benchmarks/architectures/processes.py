"""Processes that survey, side by side."""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from benchmarks.common.paths import ROOT

from .findings import Finding, Outcome

_WORKER = ("-m", "benchmarks.architectures.worker")
TIMEOUT_S = 120.0
"""Longest that one architecture may take, on a busy machine: most take half a second."""


def survey_all(
    kinds: Sequence[str],
    *,
    processes: int = 2,
    timeout_s: float = TIMEOUT_S,
    worker: Sequence[str] = _WORKER,
) -> list[Finding]:
    """Survey these architectures; gives findings in their order.

    `worker`: arguments of Python that start a process.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for kind in kinds:
        waiting.put(kind)
    found: dict[str, Finding] = {}

    def work() -> None:
        with _Worker(worker, timeout_s) as process:
            while True:
                try:
                    kind = waiting.get_nowait()
                except queue.Empty:
                    return
                found[kind] = process.survey(kind)

    with ThreadPoolExecutor(processes) as pool:
        for running in [pool.submit(work) for _ in range(processes)]:
            running.result()
    return [found[kind] for kind in kinds]


class _Worker:
    """One process at a time: another takes the place of one that has crashed or was ended."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command, self._timeout_s = command, timeout_s
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def survey(self, kind: str) -> Finding:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{kind}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._crashed(kind)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            answers = bool(selector.select(self._timeout_s))
        if not answers:
            process.kill()
            self._end()
            return Finding(kind, Outcome.WRONG, f"hangs: nothing in {self._timeout_s:g} seconds")
        line = process.stdout.readline()
        return Finding.of(json.loads(line)) if line else self._crashed(kind)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def _crashed(self, kind: str) -> Finding:
        code = self._end()
        return Finding(kind, Outcome.WRONG, f"crashes: the process ends with {code}")

    def _end(self) -> int:
        """End the process, if there is one; gives its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()  # without further lines it ends by itself
        process.stdout.close()
        return code
