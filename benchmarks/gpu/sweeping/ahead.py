"""Kernels compiled side by side, before this process has a GPU: their launches then find them in
Triton's cache."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from typing import Any, Protocol

from benchmarks.gpu.compiling.pool import workers


class Kernel(Protocol):
    """One launch's; passed to other processes."""

    @property
    def name(self) -> str: ...

    def compile(self, capability: int) -> None: ...


def compile_ahead(kernels: Sequence[Kernel], capability: int, limit_s: float) -> dict[str, Any]:
    """How many were compiled within `limit_s`, how long the longest took, and what went wrong. What
    is missing is compiled when it is launched."""
    started, seconds, errors = time.monotonic(), [0.0], {}
    with workers(len(kernels)) as pool:
        results = pool.imap_unordered(_compile, [(kernel, capability) for kernel in kernels])
        try:
            for _ in kernels:
                name, taken, error = results.next(
                    timeout=max(0.0, limit_s - (time.monotonic() - started))
                )
                seconds.append(taken)
                if error:
                    errors[name] = error
        except multiprocessing.TimeoutError:
            errors["all"] = f"not done within {limit_s:.0f} s"
    return {
        "kernels": len(kernels),
        "compiled": len(seconds) - 1,
        "seconds": time.monotonic() - started,
        "longest_s": max(seconds),
        "errors": errors,
    }


def _compile(job: tuple[Kernel, int]) -> tuple[str, float, str]:
    kernel, capability = job
    started, error = time.monotonic(), ""
    try:
        kernel.compile(capability)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"[:300]
    return kernel.name, time.monotonic() - started, error
