"""Speed of the last seconds: tokens/s and the time to first tokens, from what steps report."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from lora_runtime import AdapterUse, EngineObserver, StepStats

_TOKENS_S = 10
"""Seconds over which tokens are counted."""
_TTFT_S = 60.0
_TTFTS = 4096
"""First tokens that are kept: sorting them takes a millisecond."""


@dataclass(frozen=True)
class Speed:
    """Speed at one moment; the quantiles are 0 without a first token in the last minute."""

    generated_tokens_per_s: float
    prompt_tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    ttft_requests: int


@dataclass
class _Second:
    number: int
    generated: int = 0
    prefill: int = 0


class Rates(EngineObserver):
    """Counts of one engine: a step adds to the second that it ends in, whatever its size."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._started = clock()
        self._seconds: deque[_Second] = deque(maxlen=_TOKENS_S)
        self._ttfts: deque[tuple[float, tuple[AdapterUse, ...], float]] = deque(maxlen=_TTFTS)
        """Moment, adapters and seconds of each."""

    def on_step(self, stats: StepStats) -> None:
        now = self._clock()
        with self._lock:
            if not self._seconds or self._seconds[-1].number != int(now):
                self._seconds.append(_Second(int(now)))
            second = self._seconds[-1]
            second.generated += stats.generated
            second.prefill += stats.prefill_tokens
            self._ttfts.extend((now, *first) for first in stats.first_tokens)

    def speed(self, may_see: Callable[[str], bool]) -> Speed:
        """Tell the speed of the last seconds; first tokens are those of requests whose adapters, ""
        for the base, may all be seen."""
        now = self._clock()
        first = int(now) - _TOKENS_S + 1
        with self._lock:
            counted = [(s.generated, s.prefill) for s in self._seconds if s.number >= first]
            recent = [(uses, ttft) for at, uses, ttft in self._ttfts if at >= now - _TTFT_S]
        known = cache(may_see)
        ttfts = sorted(ttft for uses, ttft in recent if all(map(known, _ids(uses))))
        length = max(1.0, now - max(first, self._started))
        return Speed(
            generated_tokens_per_s=sum(generated for generated, _ in counted) / length,
            prompt_tokens_per_s=sum(prefill for _, prefill in counted) / length,
            ttft_p50_s=_quantile(ttfts, 0.5),
            ttft_p99_s=_quantile(ttfts, 0.99),
            ttft_requests=len(ttfts),
        )


def _ids(uses: Sequence[AdapterUse]) -> list[str]:
    return [use.adapter_id for use in uses] or [""]


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all are not above; 0 of nothing."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0
