"""Decode steps of an 8B Llama: what 32 distinct adapters cost beside the base, and how far both are
from the floor."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.bases import random_base
from benchmarks.gpu.cost import LLAMA_8B, TINY, Shape
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.step_cases import StepCase
from benchmarks.gpu.steps import StepBench

REPEATS = 30


def cases() -> list[StepCase]:
    """Those of the goal first. The base of 32 rows is measured again at the end: what it says then
    is the drift."""
    at_1024 = [
        (32, 0, 0),
        (32, 32, 16),
        (1, 0, 0),
        (1, 1, 16),
        (128, 0, 0),
        (128, 32, 16),
        (256, 0, 0),
        (256, 32, 16),
        (64, 0, 0),
        (64, 32, 16),
        (32, 1, 16),
        (128, 1, 16),
        (32, 32, 8),
        (32, 32, 64),
        (8, 0, 0),
        (8, 8, 16),
        (128, 128, 16),
        (32, 32, 128),
    ]
    others = [
        (context, n, d, r)
        for context, rows in ((4096, (32,)), (512, (32, 128)), (2048, (32, 128)))
        for n in rows
        for d, r in ((0, 0), (32, 16))
    ]
    return [
        *(StepCase(n, 1, 1024, d, r) for n, d, r in at_1024),
        *(StepCase(n, 1, c, d, r) for c, n, d, r in others),
    ]


TINY_CASES = [StepCase(2, 1, 9), StepCase(2, 1, 9, 2, 4)]


def run(context: Context) -> None:
    measure(context, LLAMA_8B if context.real else TINY, cases() if context.real else TINY_CASES)


def measure(context: Context, shape: Shape, cases: Sequence[StepCase]) -> None:
    """A row for every case, in their order, and the first again. `tax`: what the adapters add to
    the base's time."""
    base = random_base(shape, context.device, context.dtype, slots=max(c.adapters for c in cases))
    context.emit(f"{shape.name} fused logits", error=base.backend.fused.fused_error)
    bench, top = StepBench(base, shape, cases), context.ceilings()
    repeats = REPEATS if context.real else context.repeats
    taken = {
        row["name"]: row.get("device_ms", row["ms"])
        for row in context.found.get(context.stage, ())
        if "ms" in row
    }
    for case, label in [*((case, "") for case in cases), (cases[0], ", again")]:
        name = f"{shape.name} {case.name}{label}"
        if context.has(name):
            continue
        if not bench.fits(case):
            context.emit(name, left_out="no memory for its adapters")
            continue
        with attempt(context, name):
            row = bench.measure(case, top, repeats)
            taken[name] = row.get("device_ms", row["ms"])
            base_ms = taken.get(f"{shape.name} {case.plain.name}")
            beside = (
                {
                    "tax": taken[name] / base_ms - 1,
                    "floor_tax": row["floor_ms"] / (row["floor_ms"] - row["lora_floor_ms"]) - 1,
                }
                if case.adapters and base_ms
                else {}
            )
            context.emit(
                name,
                rows=case.sequences,
                adapters=case.adapters,
                rank=case.rank,
                context=case.context,
                **beside,
                **row,
            )
