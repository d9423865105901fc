"""Where a layer has LoRA, and random adapters in slots there, drawn on the device that uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from benchmarks.gpu.cost import Shape
from lora_runtime.kernels.plan import LoraPlan, SlotSegment, hidden_per_row, plan_tiles
from lora_runtime.kernels.slot_table import ModuleGroup, SlotEntries, SlotTable
from lora_runtime.kernels.updates import ModuleDelta
from lora_runtime.modules import BaseModule, ModuleKind

SCALING = 2.0
"""Of every adapter."""
Make = Callable[..., torch.Tensor]
"""A tensor of the given sizes."""


@dataclass(frozen=True)
class Place:
    """Projections of one x: `inputs` values of it, `outs` of each of them."""

    name: str
    inputs: int
    outs: tuple[int, ...]

    @property
    def width(self) -> int:
        return sum(self.outs)

    @property
    def columns(self) -> list[slice]:
        """Of each projection in y."""
        return [
            slice(end - out, end) for out, end in zip(self.outs, accumulate(self.outs), strict=True)
        ]


def places(shape: Shape) -> list[Place]:
    """Where almost all of a layer's LoRA is: o is like down with fewer inputs."""
    p = shape.projections
    named = {
        "qkv": ("q_proj", "k_proj", "v_proj"),
        "gate_up": ("gate_proj", "up_proj"),
        "down": ("down_proj",),
    }
    return [
        Place(name, p[parts[0]][0], tuple(p[part][1] for part in parts))
        for name, parts in named.items()
    ]


def drawn(device: torch.device, dtype: torch.dtype) -> Make:
    """Normal values, others with every call."""
    generator = torch.Generator(device).manual_seed(0)
    return lambda *size: torch.randn(*size, generator=generator, device=device, dtype=dtype)


@dataclass(frozen=True)
class Adapters:
    """One of `rank` in each slot, in every layer; A and B of a layer's slots lie behind each other."""

    place: Place
    rank: int
    a: Sequence[torch.Tensor]
    """By layer, (slots, projections * rank, in)"""
    b: Sequence[torch.Tensor]
    """By layer, (slots, width, rank)"""

    @classmethod
    def make(cls, place: Place, rank: int, slots: int, layers: int, make: Make) -> Adapters:
        return cls(
            place,
            rank,
            [
                make(slots, len(place.outs) * rank, place.inputs).mul_(place.inputs**-0.5)
                for _ in range(layers)
            ],
            [make(slots, place.width, rank).mul_(rank**-0.5) for _ in range(layers)],
        )

    @property
    def slots(self) -> int:
        return self.a[0].shape[0]

    @property
    def groups(self) -> list[ModuleGroup]:
        outs = self.place.outs
        return [
            ModuleGroup(layer * len(outs), self.place.inputs, outs) for layer in range(len(self.a))
        ]

    def of(self, slot: int, layer: int, projection: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A (rank, in) and B (out, rank)."""
        a = self.a[layer][slot, projection * self.rank : (projection + 1) * self.rank]
        return a, self.b[layer][slot, self.place.columns[projection]]

    def table(self) -> SlotTable:
        """The tensor as the kernels find it: where it is."""
        place, first = self.place, self.a[0]
        modules = {
            f"layers.{n}.m{i}": BaseModule(ModuleKind.LINEAR, place.inputs, out, False)
            for n in range(len(self.a))
            for i, out in enumerate(place.outs)
        }
        table = SlotTable(modules, self.slots, first.dtype, first.device)
        for slot in range(self.slots):
            deltas = {
                name: ModuleDelta(
                    module.kind,
                    module.out_features,
                    *self.of(slot, *divmod(i, len(place.outs))),
                    scaling=SCALING,
                )
                for i, (name, module) in enumerate(modules.items())
            }
            table.fill(slot, SlotEntries.of(deltas, torch.Tensor.data_ptr), 0, deltas)

        def write(to: torch.Tensor, source: torch.Tensor) -> None:
            to.copy_(source)

        table.flush(write)
        return table

    def plan(self, counts: Sequence[int], tile: int) -> LoraPlan:
        """Tiles of at most `tile` rows; `counts[i]` neighbouring rows are slot i's."""
        starts, groups = list(accumulate(counts, initial=0)), self.groups
        segments = [
            SlotSegment(starts[slot], starts[slot + 1], slot, 1.0) for slot in range(len(counts))
        ]
        return plan_tiles(segments, tile, lambda slot: hidden_per_row(self.rank, groups, tile)).to(
            self.a[0].device
        )


def shared_out(rows: int, adapters: int) -> list[int]:
    """How many of `rows` each of `adapters` has."""
    return [rows // adapters + (i < rows % adapters) for i in range(adapters)]
