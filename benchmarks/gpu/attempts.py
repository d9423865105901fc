"""Measurements that may fail without costing those behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.session.context import Context


@contextmanager
def attempt(context: Context, name: str, *, may_fail: bool = False) -> Iterator[None]:
    """Make of what is raised a row with `error`, which without a GPU is wrong unless it `may_fail`:
    there no device is a reason. Raises where an error has taken the device with it."""
    try:
        yield
    except Exception as error:
        told = f"{type(error).__name__}: {error}"[:500]
        context.emit(name, error=told, **({} if context.real or may_fail else {"good": False}))
        if context.real and torch.cuda.is_initialized():
            torch.cuda.set_stream(
                torch.cuda.default_stream(context.device)
            )  # a capture that fails leaves its own
            torch.cuda.synchronize(context.device)
