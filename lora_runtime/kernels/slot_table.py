"""What lies in every slot, module by module, as the planned kernels read it on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..adapters.update import BaseModule, ModuleKind
from .updates import ModuleDelta

Write = Callable[[torch.Tensor, torch.Tensor], None]


class SlotTable:
    """Device addresses, ranks and scalings of what each slot changes in each linear map.

    Changes are made in host memory and reach the device in `flush`: so the device's tensors stay where they are, which
    captured graphs count on, and change only between steps. Guarded by the Placer's lock, except that the thread that
    steps may ask about slots that are held.
    """

    A, B, GAIN, BIAS, DENSE = range(5)
    FIELDS = ("a", "b", "gain", "bias", "dense")

    def __init__(
        self, modules: Mapping[str, BaseModule], slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`modules`: linear maps and lm_head in the table's order; members of a fused group are neighbours."""
        wrong = [n for n, m in modules.items() if m.kind not in (ModuleKind.LINEAR, ModuleKind.LM_HEAD)]
        if wrong:
            raise ValueError(f"modules {wrong} are no linear maps")
        self.modules = dict(modules)
        self.module_index = {name: i for i, name in enumerate(modules)}
        self.slots, self.dtype = slots, dtype
        """Of A, B and dense; gain and bias are float32."""
        count = len(self.modules)
        self._host = (
            torch.zeros(slots, len(self.FIELDS), count, dtype=torch.int64),
            torch.zeros(slots, count, dtype=torch.int32), torch.zeros(slots, count, dtype=torch.float32))
        self.addresses, self.ranks, self.scalings = (torch.zeros_like(t, device=device) for t in self._host)
        """(slots, 5, modules) int64, 0 where a slot has none; (slots, modules) int32; (slots, modules) float32."""
        self._deltas: list[dict[int, ModuleDelta]] = [{} for _ in range(slots)]
        self._max_rank = [0] * slots
        self._dirty: set[int] = set()

    def takes(self, name: str, delta: ModuleDelta) -> bool:
        """Whether a row of the table can say what `delta` does: no rows of single tokens, no outputs of added ones."""
        module = self.modules.get(name)
        return module is not None and delta.token_rows is None and delta.out == module.out_features

    def tensors(self, slot: int, module: int) -> ModuleDelta | None:
        """What the slot does to a module, with the tensors that the addresses point to."""
        return self._deltas[slot].get(module)

    def max_rank(self, slot: int) -> int:
        return self._max_rank[slot]

    def fill(self, slot: int, deltas: Mapping[str, ModuleDelta]) -> None:
        """Let a cleared slot stand for these, which are on the device, and which `takes` has taken."""
        addresses, ranks, scalings = (t[slot] for t in self._host)
        for name, delta in deltas.items():
            module = self.module_index[name]
            for field, part in enumerate(self.FIELDS):
                tensor = getattr(delta, part)
                if tensor is not None:
                    addresses[field, module] = tensor.data_ptr()
            ranks[module], scalings[module] = delta.rank, delta.scaling
            self._deltas[slot][module] = delta
        self._max_rank[slot] = max((d.rank for d in deltas.values()), default=0)
        self._dirty.add(slot)

    def clear(self, slot: int) -> None:
        """Let the slot stand for nothing."""
        for tensor in self._host:
            tensor[slot].zero_()
        self._deltas[slot] = {}
        self._max_rank[slot] = 0
        self._dirty.add(slot)

    def flush(self, write: Write) -> None:
        """Bring changed rows to the device by `write(to, source)`, which is done with `source` when it returns."""
        for slot in sorted(self._dirty):
            for to, source in zip((self.addresses, self.ranks, self.scalings), self._host, strict=True):
                write(to[slot], source[slot])
        self._dirty.clear()
