"""A worker as rank 0 sees it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch.multiprocessing

from .messages import receive
from .worker import READY, WorkerSpec, main

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

    def answer(self) -> Any:
        """Wait for the answer to what was asked last through `staging`: a value, or the exception
        that it led to."""
        return receive(self.staging)
