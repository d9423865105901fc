"""Compiling what launches would run, for GPUs that are not there: as far as PTX and ptxas go.

Run in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class _Driver:
    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # kernels are cached by device

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(capability: int, launch: Callable[[], None]) -> list[CompiledKernel]:
    """The kernels that `launch` would start, built for sm_`capability` for just those arguments;
    nothing is run."""
    found: list[CompiledKernel] = []

    def run(self: JITFunction[Any], *args: Any, **kwargs: Any) -> None:
        found.append(original(self, *args, **kwargs | {"warmup": True}))

    original = JITFunction.run
    with (
        mock.patch.object(driver, "_active", _Driver(capability)),
        mock.patch.object(JITFunction, "run", run),
    ):
        launch()
    return found
