"""Statistics of a load's calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from .call import OK, Call
from .draws.popularity import BASE
from .recorder import Recorder

PERCENTILES = (50, 90, 99)


def summary(recorder: Recorder, open_loop: bool) -> dict[str, Any]:
    """Sum up all calls, and those of each adapter. Times are milliseconds of the calls that were
    answered in full."""
    by_adapter: dict[str, list[Call]] = {}
    for call in recorder.calls:
        by_adapter.setdefault(call.adapter or BASE, []).append(call)
    most_first = sorted(by_adapter.items(), key=lambda item: -len(item[1]))
    return {
        "wall_s": recorder.wall_s,
        "unfinished": recorder.unfinished,
        "not_sent": recorder.not_sent,
        "client": _client(recorder, open_loop),
        "total": _group(recorder.calls, recorder.wall_s, open_loop),
        "adapters": {name: _group(calls, recorder.wall_s, open_loop) for name, calls in most_first},
        "errors": recorder.errors,
    }


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Percentiles in milliseconds, linear between two values; None without values."""
    if not len(seconds):
        return None
    values = np.asarray(seconds) * 1e3
    found = {
        "count": len(values),
        "mean": float(values.mean()),
        "min": float(values.min()),
        "max": float(values.max()),
    }
    ranks = np.percentile(values, PERCENTILES)
    return found | {f"p{p}": float(v) for p, v in zip(PERCENTILES, ranks, strict=True)}


def latencies(calls: Iterable[Call], intended: bool = False) -> list[float]:
    return [c.ended - (c.intended if intended else c.sent) for c in calls]


def ttfts(calls: Iterable[Call], intended: bool = False) -> list[float]:
    return [c.first - (c.intended if intended else c.sent) for c in calls if c.first is not None]


def gaps(calls: Iterable[Call]) -> list[float]:
    return list(chain.from_iterable(c.gaps for c in calls))


def _group(calls: Sequence[Call], wall_s: float, open_loop: bool) -> dict[str, Any]:
    good = [c for c in calls if c.status == OK]
    tokens = sum(c.tokens for c in good)
    times = {"latency_ms": latencies(good), "ttft_ms": ttfts(good), "itl_ms": gaps(good)}
    if open_loop:  # what a caller waits who does not know that others are waited for
        times["latency_from_intended_ms"] = latencies(good, intended=True)
        times["ttft_from_intended_ms"] = ttfts(good, intended=True)
    return {
        "calls": len(calls),
        "ok": len(good),
        "statuses": dict(Counter(c.status for c in calls).most_common()),
        "calls_per_s": len(calls) / wall_s,
        "ok_per_s": len(good) / wall_s,
        "tokens": tokens,
        "tokens_per_s": tokens / wall_s,
        "prompt_tokens": sum(c.prompt_tokens for c in good),
        "cached_tokens": sum(c.cached_tokens for c in good),
        **{name: spread(values) for name, values in times.items()},
    }


def _client(recorder: Recorder, open_loop: bool) -> dict[str, Any]:
    """Tell whether this program itself was the limit."""
    late = [c.sent - c.intended for c in recorder.calls] if open_loop else []
    return {"cpu_of_one_core": recorder.cpu_s / recorder.wall_s, "sent_late_ms": spread(late)}
