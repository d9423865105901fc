"""Steps for the planned LoRA kernels: a group of modules, slots that change it in every way, and
rows that mix them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lora_runtime.kernels.plan import LoraPlan, PlanArrays, SlotSegment, hidden_per_row, plan_tiles
from lora_runtime.kernels.slot_table import ModuleGroup, SlotEntries, SlotTable
from lora_runtime.kernels.updates import ModuleDelta
from lora_runtime.modules import BaseModule, ModuleKind

BEFORE = 2  # modules of the table in front of the group's


def copy(to: torch.Tensor, source: torch.Tensor) -> None:
    """What brings a slot table's rows to the device."""
    to.copy_(source)


def integer(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=g))


@dataclass
class Step:
    """`slots[s]` maps the group's modules, from 0, to what slot s does to them."""

    x: torch.Tensor
    y: torch.Tensor
    outs: tuple[int, ...]
    bias: torch.Tensor | None
    slots: list[dict[int, ModuleDelta]]
    segments: Sequence[SlotSegment]
    group: ModuleGroup = field(init=False)
    table: SlotTable = field(init=False)

    def __post_init__(self) -> None:
        inputs, device = self.x.shape[1], self.x.device
        self.group = ModuleGroup(BEFORE, inputs, self.outs, self.bias)
        widths = [7] * BEFORE + [*self.outs]
        modules = {
            str(m): BaseModule(ModuleKind.LINEAR, inputs, out, False)
            for m, out in enumerate(widths)
        }
        self.table = SlotTable(modules, len(self.slots), self.x.dtype, device)
        for slot, deltas in enumerate(self.slots):
            named = {str(BEFORE + m): d for m, d in deltas.items()}
            self.table.fill(slot, SlotEntries.of(named, torch.Tensor.data_ptr), 0, named)
        self.table.flush(copy)

    def arrays(self, tile_size: int) -> PlanArrays:
        return plan_tiles(
            self.segments,
            tile_size,
            lambda slot: hidden_per_row(self.table.max_rank(slot), [self.group], tile_size),
        )

    def plan(self, tile_size: int) -> LoraPlan:
        """Its scratch full of NaN."""
        plan = self.arrays(tile_size).to(self.x.device)
        plan.hidden.fill_(torch.nan)
        return plan

    def changed(self, row: int) -> list[int]:
        """Columns of y that the row's adapters change."""
        ends = torch.tensor(self.outs).cumsum(0).tolist()
        modules = {
            m
            for start, end, slot, _ in self.segments
            if start <= row < end
            for m in self.slots[slot]
        }
        return [c for m in modules for c in range(ends[m] - self.outs[m], ends[m])]

    def expected(self) -> torch.Tensor:
        """The definition, row by row in float64."""
        out = self.y.double()
        for row in range(len(out)):
            column = 0
            for m, width in enumerate(self.outs):
                columns = slice(column, column + width)
                column += width
                pairs = [
                    (self.slots[s][m], w)
                    for start, end, s, w in self.segments
                    if start <= row < end and m in self.slots[s]
                ]
                bias = 0 if self.bias is None else self.bias[columns].double()
                out[row, columns] = _row(out[row, columns], self.x[row].double(), pairs, bias)
        return out


def _row(
    y: torch.Tensor, x: torch.Tensor, pairs: list[tuple[ModuleDelta, float]], bias: Any
) -> torch.Tensor:
    factor, added = torch.ones_like(y), torch.zeros_like(y)
    for d, weight in pairs:
        if d.a is not None and d.b is not None:
            added += weight * d.scaling * (d.b.double() @ (d.a.double() @ x))
        if d.bias is not None:
            added += weight * d.bias.double()
        if d.dense is not None:
            added += weight * (d.dense.double() @ x)
            factor -= weight
        elif d.gain is not None:
            factor += weight * d.gain.double()
    return bias + factor * (y - bias) + added


def random_step(
    g: torch.Generator, dtype: torch.dtype, device: str, out_dtype: torch.dtype | None = None
) -> Step:
    """Up to three modules in one to three slots, ranks 1 to 70 mixed; rows under none to four of
    them; views."""
    rows, inputs = (
        integer(g, 5, 12),
        integer(g, 1, 60) if integer(g, 0, 4) == 0 else integer(g, 129, 300),
    )
    outs = tuple(integer(g, 1, 80) for _ in range(integer(g, 1, 4)))
    slots = [
        {
            m: random_delta(g, out, inputs, dtype, device)
            for m, out in enumerate(outs)
            if integer(g, 0, 5)
        }
        for _ in range(integer(g, 1, 4))
    ]
    segments = []
    for _ in range(integer(g, 1, 4)):
        start, end = sorted(torch.randperm(rows + 1, generator=g)[:2].tolist())
        slot = integer(g, 0, len(slots))
        weight = float(torch.rand((), generator=g)) * 2 - 0.5
        segments.append(SlotSegment(start, end, slot, weight))
    x = torch.randn(rows, inputs + 3, generator=g).to(device, dtype)[:, 2 : 2 + inputs]
    y = torch.randn(rows, sum(outs) + 5, generator=g).to(device, out_dtype or dtype)[
        :, 1 : 1 + sum(outs)
    ]
    bias = torch.randn(sum(outs), generator=g).to(device, dtype) if integer(g, 0, 2) else None
    return Step(x, y, outs, bias, slots, segments)


def random_delta(
    g: torch.Generator, out: int, inputs: int, dtype: torch.dtype, device: str, **parts: Any
) -> ModuleDelta:
    """Of `parts` what is given, the rest at random, or not at all."""
    rank = parts.pop("rank", integer(g, 1, 71) if integer(g, 0, 5) else 0)

    def randn(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=g) / shape[-1] ** 0.5).to(device)

    found: dict[str, Any] = {}
    if rank:
        found = {
            "a": randn(rank, inputs).to(dtype),
            "b": randn(out, rank).to(dtype),
            "scaling": 1.7,
        }
    kind = integer(g, 0, 4)
    if kind == 0:
        found["dense"] = randn(out, inputs).to(dtype)
    elif kind == 1:
        found["gain"] = randn(out)
    if integer(g, 0, 2) or not found:
        found["bias"] = randn(out)
    return ModuleDelta(ModuleKind.LINEAR, out, **found | parts)
