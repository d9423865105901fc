"""Content of every slot, module by module, as the kernels read it on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from ..modules import BaseModule, ModuleKind
from .updates import ModuleDelta

Write = Callable[[torch.Tensor, torch.Tensor], None]
FIELDS = ("a", "b", "gain", "bias", "dense")
_NOT_IN_THE_TABLE, _NO_ROW = -2, -1


@dataclass(frozen=True)
class SlotEntries:
    """What an adapter changes in n modules, as arrays: so that filling a slot is no walk over them."""

    names: Sequence[str]
    starts: npt.NDArray[np.int64]
    """(fields, n): where the tensors lie, from a base that all have in common; -1 where there is
    none"""
    ranks: npt.NDArray[np.int32]
    scalings: npt.NDArray[np.float32]
    outs: npt.NDArray[np.int64]
    """Outputs; -1 for changes that no row of a table can say: rows of single tokens"""

    @classmethod
    def of(cls, deltas: Mapping[str, ModuleDelta], start_of: Callable[[torch.Tensor], int]) -> Self:
        starts = np.full((len(FIELDS), len(deltas)), -1, np.int64)
        for i, delta in enumerate(deltas.values()):
            for field, part in enumerate(FIELDS):
                if (tensor := getattr(delta, part)) is not None:
                    starts[field, i] = start_of(tensor)
        found = deltas.values()
        return cls(
            list(deltas),
            starts,
            np.array([d.rank for d in found], np.int32),
            np.array([d.scaling for d in found], np.float32),
            np.array([d.out if d.token_rows is None else _NO_ROW for d in found], np.int64),
        )


@dataclass(frozen=True)
class ModuleGroup:
    """Neighbouring modules of the slot table that read the same x; their outputs lie side by side
    in one y."""

    first: int
    """Index of the first module in the table; it has the modules first .. first + len(outs) - 1"""
    in_features: int
    outs: tuple[int, ...]
    """Widths of the modules in y, which is (T, sum(outs))"""
    base_bias: torch.Tensor | None = None
    """(sum(outs),) of the base, what DoRA must not scale"""

    @cached_property
    def width(self) -> int:
        return sum(self.outs)


class SlotTable:
    """Device addresses, ranks and scalings of what each slot changes in each linear map.

    Changes are made in host memory and reach the device in `flush`: so the device's tensors stay
    where they are, which captured graphs count on, and change only between steps. Guarded by the
    Placer's lock, except that the thread that steps may ask about slots that sequences run with.
    """

    A, B, GAIN, BIAS, DENSE = range(len(FIELDS))

    def __init__(
        self,
        modules: Mapping[str, BaseModule],
        slots: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`modules`: linear maps and lm_head in the table's order; members of a fused group are
        neighbours."""
        wrong = [
            n for n, m in modules.items() if m.kind not in (ModuleKind.LINEAR, ModuleKind.LM_HEAD)
        ]
        if wrong:
            raise ValueError(f"modules {wrong} are no linear maps")
        self.modules = dict(modules)
        self.module_index = {name: i for i, name in enumerate(modules)}
        self._names = list(modules)
        self._outs = np.array(
            [*(m.out_features for m in modules.values()), _NOT_IN_THE_TABLE], np.int64
        )
        self.slots, self.dtype = slots, dtype
        """The slots, and the dtype of A, B and dense; gain and bias are float32."""
        count = len(self.modules)
        self._host = (
            torch.zeros(slots, len(FIELDS), count, dtype=torch.int64),
            torch.zeros(slots, count, dtype=torch.int32),
            torch.zeros(slots, count, dtype=torch.float32),
        )
        self.addresses, self.ranks, self.scalings = (
            torch.zeros_like(t, device=device) for t in self._host
        )
        """(slots, 5, modules) int64, 0 where a slot has none; (slots, modules) int32; (slots,
        modules) float32."""
        self._modules: list[frozenset[int]] = [frozenset()] * slots
        self._deltas: list[Mapping[str, ModuleDelta]] = [{}] * slots
        self._max_rank = [0] * slots
        self._dirty: set[int] = set()

    def tensors(self, slot: int, module: int) -> ModuleDelta | None:
        """What the slot does to a module, with the tensors that the addresses point to."""
        return self._deltas[slot][self._names[module]] if module in self._modules[slot] else None

    def max_rank(self, slot: int) -> int:
        return self._max_rank[slot]

    def fill(
        self, slot: int, entries: SlotEntries, base: int, deltas: Mapping[str, ModuleDelta]
    ) -> frozenset[str]:
        """Let a cleared slot stand for `entries`, whose tensors lie on the device from the address
        `base` on.

        `deltas`: the same as tensors there. Gives the modules that the slot does not change: those
        that are not in the table, and those with rows of single tokens or outputs of added ones.
        """
        modules = np.array([self.module_index.get(name, -1) for name in entries.names], np.int64)
        known = entries.outs == self._outs[modules]
        rows = modules[known]
        addresses, ranks, scalings = (t[slot].numpy() for t in self._host)
        starts = entries.starts[:, known]
        addresses[:, rows] = np.where(starts < 0, 0, base + starts)
        ranks[rows], scalings[rows] = entries.ranks[known], entries.scalings[known]
        self._modules[slot], self._deltas[slot] = frozenset(rows.tolist()), deltas
        self._max_rank[slot] = int(entries.ranks[known].max(initial=0))
        self._dirty.add(slot)
        return frozenset(
            name for name, taken in zip(entries.names, known.tolist(), strict=True) if not taken
        )

    def clear(self, slot: int) -> None:
        """Let the slot stand for nothing."""
        for tensor in self._host:
            tensor[slot].zero_()
        self._modules[slot], self._deltas[slot] = frozenset(), {}
        self._max_rank[slot] = 0
        self._dirty.add(slot)

    def flush(self, write: Write) -> None:
        """Bring changed rows to the device by `write(to, source)`, which is done with `source` when
        it returns."""
        for slot in sorted(self._dirty):
            for to, source in zip(
                (self.addresses, self.ranks, self.scalings), self._host, strict=True
            ):
                write(to[slot], source[slot])
        self._dirty.clear()
