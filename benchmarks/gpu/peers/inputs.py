"""One case: rows under adapters at a place, and the base's weight there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from benchmarks.gpu.errors import relative_error
from benchmarks.gpu.places import SCALING, Adapters, Make, Place


@dataclass(frozen=True)
class Inputs:
    """`x` (T, in), whose rows are sorted by slot; the weights of several layers, so that no cache
    holds them."""

    x: torch.Tensor
    stacked: Sequence[torch.Tensor]
    """By layer, (width + slots * projections * rank, in): the base's weight, and below it A of
    every slot."""
    adapters: Adapters
    counts: Sequence[int]
    """Rows of each slot"""

    @property
    def place(self) -> Place:
        return self.adapters.place

    @property
    def layers(self) -> int:
        return len(self.stacked)

    @cached_property
    def slots(self) -> torch.Tensor:
        """(T,) int32: each row's"""
        counts = torch.tensor(self.counts, device=self.x.device)
        return torch.arange(
            len(self.counts), dtype=torch.int32, device=self.x.device
        ).repeat_interleave(counts)

    def weight(self, layer: int) -> torch.Tensor:
        """(width, in)"""
        return self.stacked[layer][: self.place.width]

    def base(self, layer: int) -> torch.Tensor:
        return F.linear(self.x, self.weight(layer))

    @cached_property
    def truth(self) -> Truth:
        """Of the last layer."""
        layer = self.layers - 1
        base, rounded = self.x.double() @ self.weight(layer).double().t(), self.base(layer)
        added, start = torch.zeros_like(base), 0
        for slot, count in enumerate(self.counts):
            rows = slice(start, start := start + count)
            for i, columns in enumerate(self.place.columns):
                a, b = self.adapters.of(slot, layer, i)
                added[rows, columns] = SCALING * (
                    self.x[rows].double() @ a.double().t() @ b.double().t()
                )
        whole = (rounded.double() + added).to(rounded.dtype)
        return Truth(
            base, base + added, relative_error(rounded, base), relative_error(whole, base + added)
        )


@dataclass(frozen=True)
class Truth:
    """In float64, without and with adapters; and how far torch's product is from it, and that with
    the adapters' part added exactly and rounded once."""

    base: torch.Tensor
    whole: torch.Tensor
    base_error: float
    whole_error: float


def draw(place: Place, counts: Sequence[int], rank: int, layers: int, make: Make) -> Inputs:
    """`counts[i]` rows under the adapter in slot i. `make`: normal values, of the dtype, where they
    are needed."""
    slots, below = len(counts), len(counts) * len(place.outs) * rank
    stacked = [
        make(place.width + below, place.inputs).mul_(place.inputs**-0.5) for _ in range(layers)
    ]
    a = [weights[place.width :].view(slots, -1, place.inputs) for weights in stacked]
    b = [make(slots, place.width, rank).mul_(rank**-0.5) for _ in range(layers)]
    return Inputs(make(sum(counts), place.inputs), stacked, Adapters(place, rank, a, b), counts)
