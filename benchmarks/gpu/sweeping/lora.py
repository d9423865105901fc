"""Shrink and expand of LoRA at a place, each timed alone with other tiles, their results compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu.compiling.targets import compiled
from benchmarks.gpu.cost import Cost
from benchmarks.gpu.errors import SLACK, relative_error
from benchmarks.gpu.machine import seconds
from benchmarks.gpu.places import SCALING, Adapters, Make, Place
from lora_runtime.kernels.plan import LoraPlan
from lora_runtime.kernels.triton import lora

from .tiles import DECODE, EXPAND, PREFILL, SHRINK, Tiles

WORKING_SET = 256 << 20
"""Bytes of A and of B that launches go through, several times an L2."""
_MOST_LAYERS = 64


@dataclass(frozen=True)
class Rows:
    """`counts[i]` neighbouring rows under adapter i; `decode`: each of a sequence of its own."""

    name: str
    counts: tuple[int, ...]
    rank: int
    decode: bool

    @property
    def variants(self) -> dict[str, tuple[Tiles, ...]]:
        return DECODE if self.decode else PREFILL


class LoraSweep:
    """`layers` of the same shape at a place, in turn."""

    def __init__(self, place: Place, rows: Rows, layers: int, copies: int, make: Make) -> None:
        """`copies` of x and y, in turn: a prompt's are large."""
        self.place, self.rows = place, rows
        self.adapters = Adapters.make(place, rows.rank, len(rows.counts), layers, make)
        self.table, self.groups = self.adapters.table(), self.adapters.groups
        self.x = [make(sum(rows.counts), place.inputs) for _ in range(copies)]
        self.y = [make(sum(rows.counts), place.width) for _ in range(copies)]

    def launch(self, part: str, plan: LoraPlan, layer: int, y: torch.Tensor | None = None) -> None:
        """`y`: in place of the sweep's own."""
        x, group = self.x[layer % len(self.x)], self.groups[layer]
        if part == SHRINK:
            lora.shrink(x, group, plan, self.table)
        else:
            lora.expand(self.y[layer % len(self.y)] if y is None else y, x, group, plan, self.table)

    def result(self, tiles: Tiles) -> torch.Tensor:
        """What both kernels make of the last layer's y with these tiles; what they leave to each
        other is poisoned."""
        layer = len(self.groups) - 1
        y = self.y[layer % len(self.y)].clone()
        with tiles.applied(self.rows.decode) as tile:
            plan = self.adapters.plan(self.rows.counts, tile)
            plan.hidden.fill_(torch.nan)
            self.launch(SHRINK, plan, layer)
            self.launch(EXPAND, plan, layer, y)
        return y

    def exact(self) -> torch.Tensor:
        """The same in float64."""
        layer = len(self.groups) - 1
        x, y, start = self.x[layer % len(self.x)].double(), self.y[layer % len(self.y)].double(), 0
        for slot, count in enumerate(self.rows.counts):
            rows = slice(start, start := start + count)
            for i, columns in enumerate(self.place.columns):
                a, b = self.adapters.of(slot, layer, i)
                y[rows, columns] += SCALING * (x[rows] @ a.double().t() @ b.double().t())
        return y

    def seconds(self, part: str, tiles: Tiles, device: torch.device, repeats: int) -> float:
        """Of a layer."""
        y = [values.clone() for values in self.y]  # which grow with every launch
        layers = range(len(self.groups))
        with tiles.applied(self.rows.decode) as tile:
            plan = self.adapters.plan(self.rows.counts, tile)
            self.launch(SHRINK, plan, 0)  # the expand reads what one left

            def run() -> None:
                for layer in layers:
                    self.launch(part, plan, layer, y[layer % len(y)])

            return seconds(run, device, repeats) / len(layers)

    def cost(self, part: str) -> Cost:
        """The least that a layer's launch moves and computes."""
        rows, size, adapters = sum(self.rows.counts), self.x[0].itemsize, self.adapters
        weights = (adapters.a if part == SHRINK else adapters.b)[0].numel()
        values = rows * (self.place.inputs if part == SHRINK else 2 * self.place.width)
        return Cost(2.0 * rows * weights / adapters.slots, float(size * (weights + values)))


def sweep_of(place: Place, rows: Rows, make: Make, itemsize: int, small: bool) -> LoraSweep:
    """With as many layers as go beyond caches; `small`: with one."""
    a = len(rows.counts) * len(place.outs) * rows.rank * place.inputs
    b = len(rows.counts) * place.width * rows.rank
    decode, prompt = min(_MOST_LAYERS, -(-WORKING_SET // (itemsize * min(a, b)))), 4
    layers = 1 if small else decode if rows.decode else prompt
    return LoraSweep(place, rows, layers, 1 if rows.decode else layers, make)


def compare(found: torch.Tensor, default: torch.Tensor) -> dict[str, object]:
    """`good`: equal but for few values that were rounded the other way."""
    error = relative_error(found, default.double())
    return {
        "error": error,
        "bits_equal": torch.equal(found, default),
        "good": error <= max(torch.finfo(found.dtype).eps / 8, 1e-6),
    }


def compare_exactly(found: torch.Tensor, exact: torch.Tensor) -> dict[str, object]:
    """`good`: within SLACK roundings of float64."""
    error = relative_error(found, exact)
    return {"error": error, "good": error <= SLACK * max(torch.finfo(found.dtype).eps / 2, 1e-6)}


@dataclass(frozen=True)
class LoraKernel:
    """What a launch compiles."""

    part: str
    place: Place
    rows: Rows
    tiles: Tiles
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{self.part} {self.place.name} {self.rows.name}: {self.tiles.name}"

    def compile(self, capability: int) -> None:
        """For a GPU that need not be there."""

        def unset(*size: int) -> torch.Tensor:
            return torch.empty(*size, dtype=self.dtype)

        given = LoraSweep(self.place, self.rows, 1, 1, unset)
        with self.tiles.applied(self.rows.decode) as tile:
            plan = given.adapters.plan(self.rows.counts, tile)
            compiled(capability, lambda: given.launch(self.part, plan, 0))


def kernels_of(place: Place, rows: Sequence[Rows], dtype: torch.dtype) -> list[LoraKernel]:
    """All that a sweep will launch, each once: how many rows there are changes no kernel."""
    found: dict[tuple[object, ...], LoraKernel] = {}
    for some in rows:
        for variants in some.variants.values():
            for tiles in variants:
                for part in (SHRINK, EXPAND):
                    key = tiles.compiled_as(part, some.decode)
                    found.setdefault(key, LoraKernel(part, place, some, tiles, dtype))
    return list(found.values())
