"""Measurements that may fail without costing those behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.session.context import Context


@contextmanager
def attempt(context: Context, name: str) -> Iterator[None]:
    """Makes of what is raised a row with `error`. Raises where an error has taken the device with
    it."""
    try:
        yield
    except Exception as error:
        context.emit(name, error=f"{type(error).__name__}: {error}"[:500])
        if context.real and torch.cuda.is_initialized():
            torch.cuda.set_stream(
                torch.cuda.default_stream(context.device)
            )  # a capture that fails leaves its own
            torch.cuda.synchronize(context.device)
