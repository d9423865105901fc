"""Shows on a CPU that a step could be captured as a CUDA graph: it reads no values on the host, and
no memory but what it made itself or has read each time before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from lora_runtime.backends.triton.host_reads import reads_on_host
from lora_runtime.kernels import PlannedKernels
from lora_runtime.model.step_context import StepContext

_FROM_HOST = {"aten::lift_fresh"}
"""torch.tensor(...): a graph would keep the address of a value that is gone."""


class CaptureError(AssertionError):
    """What a capture would have failed at, or what a replay would get wrong."""


class CaptureGuard(TorchDispatchMode):
    """Enter it around a step, again and again: `inputs` are the addresses that the first one read.

    Kernels that are not torch's ops must be wrapped by `kernels`, or it sees nothing of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: set[int] = set()
        self.ops = 0
        self._made: dict[
            int, Any
        ] = {}  # the storages live until the step is over: no address is given out twice
        self._first = True

    def __exit__(self, *error: Any) -> None:
        self._made.clear()
        self._first = False
        super().__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.ops += 1
        if reads_on_host(func, args) or func.name() in _FROM_HOST:
            raise CaptureError(
                f"{func.name()} makes the host wait for the device, or the device for the host"
            )
        self.read(tree_leaves((args, kwargs)), func.name())
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if (
                isinstance(tensor, torch.Tensor)
                and (storage := tensor.untyped_storage()).data_ptr() not in self.inputs
            ):
                self._made[storage.data_ptr()] = storage
        return out

    def read(self, values: Sequence[Any], what: str) -> None:
        """These are read by `what`."""
        for tensor in values:
            if not isinstance(tensor, torch.Tensor) or not tensor.numel():
                continue
            address = tensor.untyped_storage().data_ptr()
            if address in self._made or address in self.inputs:
                continue
            if not self._first:
                raise CaptureError(
                    f"{what} reads {tuple(tensor.shape)} at an address that the first step did not read"
                )
            self.inputs.add(address)

    @contextmanager
    def kernels(
        self, state: StepContext, fixed: Callable[[Any], Sequence[torch.Tensor]]
    ) -> Iterator[None]:
        """While entered, the step's kernels are seen too; `fixed` gives the tensors of arguments
        that are none."""
        own = state.kernels
        assert isinstance(own, PlannedKernels)

        def seen(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                found = [
                    t for a in args for t in ([a] if isinstance(a, torch.Tensor) else fixed(a))
                ]
                self.read(found, name)
                with (
                    _disable_current_modes()
                ):  # what the interpreter does on the host is no part of the step
                    out = kernel(*args, **kwargs)
                if isinstance(out, torch.Tensor):
                    self._made[out.untyped_storage().data_ptr()] = out.untyped_storage()
                return out

            return call

        state.kernels = _mapped(own, seen)
        try:
            yield
        finally:
            state.kernels = own


def _mapped(
    kernels: PlannedKernels, change: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> PlannedKernels:
    changed: dict[str, Any] = {
        n: change(n, getattr(kernels, n)) for n in ("attention", "write_kv", "update_group")
    }
    halves = kernels.halves and (
        change("shrink", kernels.halves[0]),
        change("expand", kernels.halves[1]),
    )
    return replace(kernels, **changed, halves=halves)
