"""An adapter's weights in the form in which a base's forward reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from .updates import ModuleDelta


def pinned_bytes(num_bytes: int) -> int:
    """What pinned memory of that size takes: torch's allocator rounds up to a power of two (pytorch/pytorch#150517)."""
    return 1 << (num_bytes - 1).bit_length() if num_bytes else 0


class TorchAdapter:
    """`deltas` by module name, for the torch path: staged, and once its tensors are on the device placed."""

    def __init__(self, deltas: Mapping[str, ModuleDelta]) -> None:
        self.deltas = dict(deltas)
        self.num_bytes = self.host_bytes = sum(self._sizes())

    def pinned(self) -> TorchAdapter:
        """In memory that the device copies from without the host's help."""
        pinned = self._mapped(torch.Tensor.pin_memory)
        pinned.host_bytes = sum(map(pinned_bytes, pinned._sizes()))
        return pinned

    def to(self, device: torch.device) -> TorchAdapter:
        return self._mapped(lambda t: t.to(device, non_blocking=True))

    def _sizes(self) -> Iterable[int]:
        """Bytes of each tensor, once where modules share it."""
        return {id(t): t.nbytes for d in self.deltas.values() for t in d.tensors().values()}.values()

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TorchAdapter:
        moved: dict[int, torch.Tensor] = {}  # what modules share stays shared

        def once(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = change(tensor)
            return moved[id(tensor)]

        return TorchAdapter({name: d.map(once) for name, d in self.deltas.items()})
