"""The goal's decode steps on a Qwen3 of 8B: norms of queries and keys between the projections and
the cache."""

from __future__ import annotations

from benchmarks.gpu.cost import QWEN3_8B, TINY_QWEN3
from benchmarks.gpu.session.context import Context
from benchmarks.gpu.step_cases import StepCase

from .decode import TINY_CASES, measure

CASES = [
    StepCase(n, 1, 1024, d, r)
    for n, d, r in [
        (32, 0, 0),
        (32, 32, 16),
        (1, 0, 0),
        (1, 1, 16),
        (128, 0, 0),
        (128, 32, 16),
        (256, 0, 0),
        (256, 32, 16),
    ]
]


def run(context: Context) -> None:
    measure(
        context, QWEN3_8B if context.real else TINY_QWEN3, CASES if context.real else TINY_CASES
    )
