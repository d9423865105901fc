"""Adapters as tensors by module, as hooks in transformers' forward read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch

from ...kernels.updates import ModuleDelta
from ..pinned import pinned_bytes


class AdapterByModule(Protocol):
    """Adapter whose modules' changes can be had one by one."""

    @property
    def deltas(self) -> Mapping[str, ModuleDelta]: ...


class TorchAdapter:
    """Adapter as `deltas` by module name: staged, and once its tensors are on the device placed."""

    def __init__(self, deltas: Mapping[str, ModuleDelta]) -> None:
        self.deltas = dict(deltas)
        self.num_bytes = self.host_bytes = sum(self._sizes())

    def pinned(self) -> TorchAdapter:
        """Copy into memory that the device copies from without the host's help."""
        pinned = self._mapped(torch.Tensor.pin_memory)
        pinned.host_bytes = sum(map(pinned_bytes, pinned._sizes()))
        return pinned

    def to(self, device: torch.device) -> TorchAdapter:
        return self._mapped(lambda t: t.to(device, non_blocking=True))

    def _sizes(self) -> Iterable[int]:
        """Bytes of each tensor, once where modules share it."""
        return {
            id(t): t.nbytes for d in self.deltas.values() for t in d.tensors().values()
        }.values()

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TorchAdapter:
        moved: dict[int, torch.Tensor] = {}  # what modules share stays shared

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = change(tensor)
            return moved[id(tensor)]

        return TorchAdapter({name: d.map(once) for name, d in self.deltas.items()})
