"""Write the tables of docs/results/gpu.md: what was predicted and measured, what a step costs at
least.

`python -m benchmarks.gpu.tables`
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.common.tables import fill, table
from benchmarks.gpu.cost import LLAMA_8B, Cost, Rows, Shape, step_cost
from benchmarks.gpu.predictions import H100_BANDWIDTH, H100_RATE, found_in, lines

PAGE = Path(__file__).parents[2] / "docs/results/gpu.md"
MEASURED = Path(__file__).parents[1] / "results/gpu/lease.json"
"""A lease on an H100; where there is none the table says that nothing was measured."""

DECODE = [
    (1, 0, 0),
    (1, 1, 16),
    (8, 8, 16),
    (32, 0, 0),
    (32, 1, 16),
    (32, 8, 16),
    (32, 32, 16),
    (32, 32, 64),
    (32, 32, 128),
    (128, 0, 0),
    (128, 32, 16),
    (128, 128, 16),
    (128, 128, 64),
]
"""(rows, distinct adapters, rank)"""
PREFILL = [(1, 2048, 0), (1, 2048, 16), (32, 64, 0), (32, 64, 16), (32, 64, 64)]
"""(sequences, new tokens of each, rank); every sequence has an adapter of its own"""


def decode_rows(rows: int, adapters: int, rank: int, context: int = 1024) -> list[Rows]:
    """One new token each, adapters in turn."""
    return [Rows(1, context, rank, i % adapters if adapters else 0) for i in range(rows)]


def tables() -> dict[str, str]:
    decode = [
        ((f"{n}", f"{d} of rank {r}" if d else "–"), decode_rows(n, d, r)) for n, d, r in DECODE
    ]
    prefill = [
        ((f"{n} x {t}", f"{n} of rank {r}" if r else "–"), [Rows(t, t, r, i) for i in range(n)])
        for n, t, r in PREFILL
    ]
    found = found_in(json.loads(MEASURED.read_text(encoding="utf-8"))) if MEASURED.exists() else {}
    measured = [
        (n.what, n.predicted, n.floor, n.goal or "–", n.measured or "not measured")
        for n in lines(found)
    ]
    return {
        "gpu-measured": table(
            ("Llama 3 8B, bfloat16", "predicted", "floor", "goal", "measured"), measured
        ),
        "gpu-decode": _limits("rows", decode, LLAMA_8B),
        "gpu-prefill": _limits("prompts", prefill, LLAMA_8B),
    }


def _limits(first: str, cases: list[tuple[tuple[str, str], list[Rows]]], shape: Shape) -> str:
    rows = []
    for labels, step in cases:
        parts = step_cost(shape, step)
        times = {
            name: cost.seconds(H100_BANDWIDTH, H100_RATE) * 1e3 for name, cost in parts.items()
        }
        without = times["base"] + times["attention"]
        rows.append(
            (
                *labels,
                *(_cell(parts[name], times[name]) for name in ("base", "attention", "lora")),
                f"{sum(times.values()):.2f}",
                f"{times['lora'] / without:.1%}" if times["lora"] else "–",
            )
        )
    return table((first, "adapters", "base", "attention", "LoRA", "limit, ms", "LoRA / rest"), rows)


def _cell(cost: Cost, milliseconds: float) -> str:
    if not cost.num_bytes:
        return "–"
    return f"{cost.num_bytes / 1e9:.2f} GB, {cost.flops / 1e12:.2f} TF, {milliseconds:.2f} ms"


if __name__ == "__main__":
    fill(PAGE, tables())
