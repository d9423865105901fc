"""Steps that are not captured: prompts, and a prompt's chunk beside decode rows."""

from __future__ import annotations

from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.bases import random_base
from benchmarks.gpu.cost import LLAMA_8B, TINY
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.step_cases import StepCase
from benchmarks.gpu.steps import StepBench

CASES = [
    StepCase(1, 2048, 2048),
    StepCase(1, 2048, 2048, 1, 16),
    StepCase(32, 64, 64),
    StepCase(32, 64, 64, 32, 16),
    StepCase(32, 1, 1024, chunk=64),
    StepCase(32, 1, 1024, 32, 16, chunk=64),
    StepCase(32, 1, 1024, chunk=512),
    StepCase(32, 1, 1024, 32, 16, chunk=512),
    StepCase(1, 2048, 2048, 1, 128),
    StepCase(4, 512, 4096),
    StepCase(1, 64, 4096),
]
"""The last two: chunks behind a long prefix."""
TINY_CASES = [StepCase(2, 5, 5), StepCase(2, 5, 5, 1, 4), StepCase(2, 1, 9, 2, 4, chunk=6)]


def run(context: Context) -> None:
    cases, shape = (CASES, LLAMA_8B) if context.real else (TINY_CASES, TINY)
    base = random_base(shape, context.device, context.dtype, slots=max(c.adapters for c in cases))
    bench, top = StepBench(base, shape, cases), context.ceilings()
    for case in cases:
        if not context.has(name := f"{shape.name} {case.name}"):
            with attempt(context, name):
                context.emit(name, **bench.measure(case, top, min(context.repeats, 8)))
