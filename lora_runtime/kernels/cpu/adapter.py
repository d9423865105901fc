"""One adapter as the C++ kernels read it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from ..lora import LoraWeights
from .library import LoraEntry, load
from .memory import Arena
from .weights import lora_bytes, pack_lora


class CpuAdapter:
    """A table with one entry per module of the base; a module without LoRA has rank 0."""

    def __init__(self, weights: Mapping[str, LoraWeights], modules: Sequence[str]) -> None:
        """`modules`: all projections of the base, in the order in which the forward comes to them.

        Raises ValueError for a rank that the kernels cannot take.
        """
        library = load()
        self.num_bytes = sum(lora_bytes(library, w.a, w.b) for w in weights.values())
        arena = Arena(self.num_bytes)
        self._table = (LoraEntry * len(modules))()
        self._packed = []
        for i, name in enumerate(modules):
            if (w := weights.get(name)) is not None:
                self._packed.append(pack_lora(library, w.a, w.b, w.scaling, arena))
                self._table[i] = self._packed[-1].struct()

    @property
    def address(self) -> int:
        """Of the table; valid while this object lives."""
        return ctypes.addressof(self._table)
