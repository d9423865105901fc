"""What others do with LoRA, at the same shapes: is ours the best that there is?"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.cost import LLAMA_8B, TINY, lora_cost
from benchmarks.gpu.kernels import WORKING_SET
from benchmarks.gpu.peers import MERGED, OURS, VARIANTS
from benchmarks.gpu.peers.inputs import Inputs, draw
from benchmarks.gpu.peers.measure import check, times
from benchmarks.gpu.places import Place, drawn, places, shared_out
from benchmarks.gpu.session.context import Context, Row

FULL_SIZES = ((32, 32, 16), (128, 32, 16))
"""(rows, adapters, rank)"""
TINY_SIZES = ((5, 3, 4),)
LAST = ("grouped GEMM",)
"""After all cases of the others: it may take the device with it."""


@dataclass(frozen=True)
class Case:
    """Of a decode step: neighbouring rows share an adapter, as the batch planner sorts them."""

    place: Place
    rows: int
    adapters: int
    rank: int

    @property
    def name(self) -> str:
        return f"{self.place.name} {self.rows} rows, {self.adapters} x rank {self.rank}"

    def draw(self, context: Context) -> Inputs:
        counts = shared_out(self.rows, self.adapters)
        dtype = context.dtype
        moved = lora_cost(
            counts, [self.rank] * self.adapters, self.place.inputs, self.place.outs, dtype.itemsize
        )
        layers = min(32, -(-WORKING_SET // int(moved.num_bytes))) if context.real else 2
        return draw(self.place, counts, self.rank, layers, drawn(context.device, dtype))


def run(context: Context) -> None:
    rows: dict[str, Row] = {row["name"]: dict(row) for row in context.found.get(context.stage, ())}
    cases = list(_cases(context))
    first = [name for name in VARIANTS if name not in LAST]
    try:
        with torch.inference_mode():
            for names in (first, LAST):
                for case in cases:
                    _measure(context, case, names, rows)
    finally:
        for case in cases:
            _rank(context, case, rows)


def _cases(context: Context) -> Iterator[Case]:
    sizes = FULL_SIZES if context.real else TINY_SIZES
    for size in sizes:
        for place in places(LLAMA_8B if context.real else TINY):
            yield Case(place, *size)


def _measure(context: Context, case: Case, names: Sequence[str], rows: dict[str, Row]) -> None:
    wanted = {name: f"{case.name}: {name}" for name in names}
    wanted = {name: label for name, label in wanted.items() if not context.has(label)}
    if not wanted:
        return
    with attempt(context, case.name, may_fail=True):
        inputs = case.draw(context)
        for name, label in wanted.items():
            with attempt(context, label, may_fail=True):
                rows[label] = _row(context, inputs, name)
                context.emit(label, **rows[label])
        del inputs
    gc.collect()  # PEFT's modules refer to each other
    if context.real:
        torch.cuda.empty_cache()


def _row(context: Context, inputs: Inputs, name: str) -> Row:
    """Checked; timed if it is right."""
    variant = VARIANTS[name](inputs)
    row = check(variant, inputs)
    if row["good"]:
        row |= times(variant, inputs, context.ceilings(), context.device, context.repeats)
    return row


def _rank(context: Context, case: Case, rows: dict[str, Row]) -> None:
    """A row that says what is fastest of what adapts, and what each costs beyond the base's
    product."""
    found = {name: rows.get(f"{case.name}: {name}", {}).get("us") for name in VARIANTS}
    us = {name: value for name, value in found.items() if value is not None}
    if OURS not in us or MERGED not in us:
        return
    base = us.pop(MERGED)
    fastest = min(us, key=us.__getitem__)
    context.emit(
        f"fastest {case.name}",
        variant=fastest,
        us=us[fastest],
        ours_us=us[OURS],
        ours_to_fastest=us[OURS] / us[fastest],
        beyond_base_us={n: value - base for n, value in us.items()},
    )
