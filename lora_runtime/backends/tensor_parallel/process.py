"""A worker as rank 0 sees it."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import torch.multiprocessing

from .messages import Stop, receive, send
from .worker import READY, WorkerSpec, main

log = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""Seconds for workers to end by themselves, and for their end to be noticed after a step that
failed with it."""
START_METHOD = "spawn"
"""Start method of workers: a forked process would share this one's locks and its CUDA."""


class WorkerProcess:
    """A worker: its process, and the two connections to it."""

    def __init__(self, spec: WorkerSpec) -> None:
        context = torch.multiprocessing.get_context(START_METHOD)
        self.rank = spec.member.rank
        self.steps, theirs = context.Pipe()
        self.staging, theirs_too = context.Pipe()
        self.process = context.Process(  # type: ignore[attr-defined]
            target=main,
            args=(spec, theirs, theirs_too),
            name=f"loramux-rank-{self.rank}",
            daemon=True,
        )
        self.process.start()
        # Theirs alone from now on: their end is then the connection's.
        theirs.close()
        theirs_too.close()

    def end(self) -> str:
        """Reason why the worker has ended."""
        self.process.join(PATIENCE_S)
        with suppress(EOFError, OSError):
            while self.steps.poll():
                if (said := receive(self.steps)) != READY:
                    return str(said)
        return f"exit code {self.process.exitcode}"

    def ask_to_end(self) -> None:
        with suppress(OSError):
            send(self.steps, Stop())

    def end_by(self, until: float) -> None:
        """Wait until then, on the monotonic clock, for the process to end; kill it if it has not."""
        self.process.join(max(0, until - time.monotonic()))
        if self.process.is_alive():
            log.warning("rank %d does not end: killed", self.rank)
            self.process.kill()
            self.process.join(PATIENCE_S)
        self.steps.close()
        self.staging.close()

    def answer(self) -> Any:
        """Wait for the answer to what was asked last through `staging`: a value, or the exception
        that it led to."""
        return receive(self.staging)
