"""One adapter as the C++ kernels read it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from ..lora import LoraWeights
from .library import LoraEntry
from .weights import pack_lora


class CpuAdapter:
    """A table with one entry per module of the base; a module without LoRA has rank 0."""

    def __init__(self, weights: Mapping[str, LoraWeights], modules: Sequence[str]) -> None:
        """`modules`: all projections of the base. Raises ValueError for a rank that the kernels cannot take."""
        self._packed = {name: pack_lora(w.a, w.b, w.scaling) for name, w in weights.items()}
        self._table = (LoraEntry * len(modules))()
        for i, name in enumerate(modules):
            if name in self._packed:
                self._table[i] = self._packed[name].struct()
        self.num_bytes = sum(p.num_bytes for p in self._packed.values())

    @property
    def address(self) -> int:
        """Of the table; valid while this object lives."""
        return ctypes.addressof(self._table)
