"""What was predicted of an H100 before anything had run on one, beside the floor and what a lease
measured.

The predictions are arithmetic on bytes, launches and latencies, each to about 40 %; they stay as
they are, whatever is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.cost import LLAMA_8B, step_cost
from benchmarks.gpu.step_cases import StepCase

H100_BANDWIDTH, H100_RATE = 3.35e12, 989e12
"""Bytes/s and dense bfloat16 FLOP/s of the SXM data sheet, for floors where none were measured."""

Found = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Stage → name → row."""


@dataclass(frozen=True)
class Line:
    """Of the table: texts, empty where there is nothing to say."""

    what: str
    predicted: str
    floor: str
    goal: str
    measured: str


def found_in(data: Mapping[str, Any]) -> Found:
    """The rows of a lease's JSON."""
    return {
        stage: {row["name"]: row for row in entry["rows"]}
        for stage, entry in data.get("stages", {}).items()
    }


def lines(found: Found) -> list[Line]:
    """All of the table; what was not measured is empty."""
    return [*_steps(found), *_shares(found), *_taxes(found), *_engine(found), *_others(found)]


# --- decode steps -----------------------------------------------------------------------------------

_PREDICTED_MS = {
    (1, 0): "8.4",
    (1, 1): "9.4",
    (32, 0): "10.1",
    (32, 32): "13.2",
    (128, 0): "15.9",
    (128, 32): "18.9",
    (256, 0): "24",
    (256, 32): "27",
}
"""(rows, distinct adapters of rank 16) at a context of 1,024"""
_PREDICTED_SHARE = {1: "54 %", 32: "57 %", 128: "60 %", 256: "61 %"}
_GOAL_SHARE = {1: "≥ 75 %", 32: "≥ 80 %", 128: "≥ 80 %", 256: "≥ 80 %"}
_PREDICTED_TAX = {(1, 1): "12 %", (32, 32): "26-35 %", (128, 32): "16-22 %", (256, 32): "12-15 %"}
_TAX_SLACK = 1.35
"""The goal for 32 adapters: the byte floor's own share, times this."""


def _case(rows: int, adapters: int) -> StepCase:
    return StepCase(rows, 1, 1024, adapters, 16 if adapters else 0)


def _row(found: Found, rows: int, adapters: int) -> Mapping[str, Any]:
    return found.get("decode", {}).get(f"{LLAMA_8B.name} {_case(rows, adapters).name}", {})


def _floor_ms(found: Found, rows: int, adapters: int) -> float:
    if "floor_ms" in (row := _row(found, rows, adapters)):
        return float(row["floor_ms"])
    return _least_ms(_case(rows, adapters))


def _least_ms(case: StepCase) -> float:
    """By the data sheet."""
    parts = step_cost(LLAMA_8B, case.rows()).values()
    return sum(cost.seconds(H100_BANDWIDTH, H100_RATE) for cost in parts) * 1e3


def _steps(found: Found) -> list[Line]:
    return [
        Line(
            f"{_label(n, d)}: device ms",
            predicted,
            f"{_floor_ms(found, n, d):.2f}",
            "",
            _number(_row(found, n, d).get("device_ms"), "{:.2f}"),
        )
        for (n, d), predicted in _PREDICTED_MS.items()
    ]


def _shares(found: Found) -> list[Line]:
    return [
        Line(
            f"{_label(n, 0)}: share of the floor",
            predicted,
            "100 %",
            _GOAL_SHARE[n],
            _number(_row(found, n, 0).get("of_floor"), "{:.0%}"),
        )
        for n, predicted in _PREDICTED_SHARE.items()
    ]


def _taxes(found: Found) -> list[Line]:
    table = []
    for (n, d), predicted in _PREDICTED_TAX.items():
        base, floor = _floor_ms(found, n, 0), _floor_ms(found, n, d)
        least = floor / base - 1
        ours, plain = (_row(found, n, k).get("device_ms") for k in (d, 0))
        table.append(
            Line(
                f"{_label(n, d)}: more than the base",
                predicted,
                f"{least:.1%}",
                f"≤ {least * _TAX_SLACK:.1%}" if d > 1 else "",
                _number(ours / plain - 1 if ours and plain else None, "{:.1%}"),
            )
        )
    return table


def _label(rows: int, adapters: int) -> str:
    what = f"{adapters} adapters" if adapters > 1 else "1 adapter" if adapters else "base"
    return f"decode, {rows} rows, {what}" if rows > 1 else f"decode, 1 row, {what}"


# --- the engine, prompts, kernels -------------------------------------------------------------------


def _engine(found: Found) -> list[Line]:
    rows, table = found.get("engine", {}), []
    for streams, predicted, goal in ((128, "< 0.6", "≥ 0.85"), (32, "", "")):
        row, step = (
            rows.get(f"{streams} streams, 32 adapters, greedy", {}),
            _row(found, streams, 32).get("device_ms"),
        )
        share = row["tokens_per_s"] / (streams / step * 1e3) if row and step else None
        table.append(
            Line(
                f"engine, {streams} streams: tokens/s by rows / device ms",
                predicted,
                "1",
                goal,
                _number(share, "{:.2f}"),
            )
        )
    host = rows.get("128 streams, 32 adapters, greedy", {}).get("host", {})
    sampled = rows.get("128 streams, 32 adapters, top_p", {}).get("host", {})
    return [
        *table,
        Line(
            "engine, 128 streams: host µs a row",
            "45-70",
            "",
            "",
            _number(host.get("own_us_per_row"), "{:.0f}"),
        ),
        Line(
            "engine, 128 streams, top_p: sampling ms a step",
            "> 3",
            "",
            "",
            _number(sampled.get("sample_ms"), "{:.1f}"),
        ),
    ]


_PREFILL = (
    ("prefill, 2,048 rows: ms", "57", StepCase(1, 2048, 2048)),
    ("32 decode rows and a chunk of 64: ms", "16-20", StepCase(32, 1, 1024, chunk=64)),
)
_KERNELS = (
    (
        "LoRA on q, k, v, 32 rows, 32 adapters: share of the limit",
        "< 35 %",
        "lora qkv decode, 32 rows, 32 x rank 16",
    ),
    ("attention, 1 row over 1,024: share of the limit", "15-25 %", "attention 1 x 1 over 1024"),
)


def _others(found: Found) -> list[Line]:
    table = []
    for what, predicted, case in _PREFILL:
        row = found.get("prefill", {}).get(f"{LLAMA_8B.name} {case.name}", {})
        floor = row.get("floor_ms", _least_ms(case))
        table.append(Line(what, predicted, f"{floor:.1f}", "", _number(row.get("ms"), "{:.1f}")))
    for what, predicted, name in _KERNELS:
        row = found.get("kernels", {}).get(name, {})
        table.append(Line(what, predicted, "100 %", "", _number(row.get("of_limit"), "{:.0%}")))
    return table


def _number(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)
