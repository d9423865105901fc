"""A policy's figures over all of its turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common.report import percentiles

from .loads import CLASSES


def figures(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the turns of one policy under one load. Latencies are of all turns' calls together;
    balance is each turn's, averaged."""
    requests = sum(sum(turn["requests"]) for turn in turns)
    loads = sum(sum(turn["loads"]) for turn in turns)
    wall_s = sum(turn["wall_s"] for turn in turns)
    by_class = {name: [v for t in turns for v in t["ttft_ms"][name]] for name in CLASSES}
    everything = [value for values in by_class.values() for value in values]
    return {
        "rate": turns[0]["rate"],
        "requests": requests,
        "failed": sum(turn["failed"] for turn in turns),
        "loads_per_1000": 1000 * loads / requests,
        "loads_per_1000_of_turns": [1000 * sum(t["loads"]) / sum(t["requests"]) for t in turns],
        "hit_rate": 1 - loads / requests,
        "balance_requests": _mean([_highest_of_mean(t["requests"]) for t in turns]),
        "balance_tokens": _mean([_highest_of_mean(t["replica_tokens"]) for t in turns]),
        "ttft_ms": {"all": _p50_p99(everything)}
        | {name: _p50_p99(values) for name, values in by_class.items()},
        "ttft_p50_ms_of_turns": [
            _p50_p99([v for values in t["ttft_ms"].values() for v in values])[0] for t in turns
        ],
        "prompt_tokens_per_call": sum(t["prompt_tokens"] for t in turns) / max(1, requests),
        "calls_per_s": sum(turn["calls"] for turn in turns) / wall_s,
        "tokens_per_s": sum(turn["tokens"] for turn in turns) / wall_s,
    }


def _highest_of_mean(values: Sequence[float]) -> float:
    return max(values) * len(values) / sum(values)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _p50_p99(values: Sequence[float]) -> list[float]:
    if not values:
        return []
    found = percentiles(values)
    return [found[49], found[98]]
