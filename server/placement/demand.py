"""How much work each adapter is, from the replicas' counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

_FORGOTTEN = 1e-6
"""Part of all work below which an adapter is as good as never asked for."""
_NONE = 1e-9
"""Tokens that are no work: halved on and on, it would become numbers that cannot be divided by."""


class Demand:
    """Work of late by adapter: what was counted `half_life_s` seconds ago counts half.

    The counters' first values, which may be of days, tell how adapters compare; they weigh no more
    than one half-life of what comes then.
    """

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._totals: dict[str, dict[str, float]] = {}
        """Counters by replica, by adapter."""
        self._first: dict[str, float] = {}
        self._work: dict[str, float] = {}

    def count(self, totals: Mapping[str, dict[str, float]], seconds: float) -> Mapping[str, float]:
        """Take the counters as they are now, `seconds` after the last time, and give the work."""
        if not self._totals and not self._work:
            for counters in totals.values():
                for adapter, work in counters.items():
                    if work > _NONE:
                        self._first[adapter] = self._first.get(adapter, 0.0) + work
            added: dict[str, float] = defaultdict(float)
        else:
            added = self._added(totals)
        self._totals = dict(totals)
        fade = 0.5 ** (seconds / self._half_life_s)
        for adapter in self._work:
            self._work[adapter] *= fade
        for adapter, work in added.items():
            self._work[adapter] = self._work.get(adapter, 0.0) + work
        self._weigh_first(sum(added.values()), seconds)
        self._forget()
        return self._work if not self._first else dict(self._first)

    def _added(self, totals: Mapping[str, dict[str, float]]) -> dict[str, float]:
        added: dict[str, float] = defaultdict(float)
        for replica, counters in totals.items():
            before = self._totals.get(replica)
            if before is None:  # new, or away for a while: when that was, nobody knows
                continue
            for adapter, total in counters.items():
                last = before.get(adapter, 0.0)
                added[adapter] += total - last if total >= last else total  # it began anew
        return added

    def _weigh_first(self, added: float, seconds: float) -> None:
        whole = sum(self._first.values())
        if not added or not whole:
            return
        weight = min(1.0, added * self._half_life_s / seconds / whole)
        for adapter, work in self._first.items():
            self._work[adapter] = self._work.get(adapter, 0.0) + work * weight
        self._first.clear()

    def _forget(self) -> None:
        least = max(sum(self._work.values()) * _FORGOTTEN, _NONE)
        self._work = {adapter: work for adapter, work in self._work.items() if work > least}
