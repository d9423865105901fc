"""A slot table in host memory for tests of the planned kernels: every tensor in memory of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lora_runtime.kernels.updates import ModuleDelta


class HostSlotTable:
    """As lora_runtime.kernels.slot_table.SlotTable; `slots[s]` maps module indices to deltas."""

    A, B, GAIN, BIAS, DENSE = range(5)

    def __init__(self, slots: Sequence[Mapping[int, ModuleDelta]], modules: int, dtype: torch.dtype) -> None:
        self.dtype, self._slots = dtype, slots
        self.module_index = {str(m): m for m in range(modules)}
        self.addresses = torch.zeros(len(slots), 5, modules, dtype=torch.int64)
        self.ranks = torch.zeros(len(slots), modules, dtype=torch.int32)
        self.scalings = torch.zeros(len(slots), modules)
        for slot, deltas in enumerate(slots):
            for module, delta in deltas.items():
                for field, name in enumerate(("a", "b", "gain", "bias", "dense")):
                    if (tensor := getattr(delta, name)) is not None:
                        assert tensor.is_contiguous()
                        self.addresses[slot, field, module] = tensor.data_ptr()
                self.ranks[slot, module] = delta.rank
                self.scalings[slot, module] = delta.scaling

    def max_rank(self, slot: int) -> int:
        return max((d.rank for d in self._slots[slot].values()), default=0)

    def tensors(self, slot: int, module: int) -> ModuleDelta | None:
        return self._slots[slot].get(module)
