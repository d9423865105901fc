"""The waiting queue: who is served next, so that no adapter's traffic starves another's.

Virtual token counter, from "Fairness in Serving Large Language Models" (arXiv:2401.00588): every
adapter (and the base) has a counter of the tokens it was served, divided by its weight, and the one
with the smallest goes next. An adapter that was away is lifted to the smallest counter of those
that wait, so that idleness earns no credit.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from ..requests.sequence import Sequence

PROMPT_COST = 1.0
OUTPUT_COST = 2.0
"""What a token costs; decoding one costs more than computing one of a prompt, as in the paper."""

_Lane = tuple[str, str, int]
"""(tenant, adapter versions, priority): its sequences run or wait for the same reasons, first come,
first served."""


class FairQueue:
    """Not thread-safe: the engine thread owns it.

    Order: priority; then the tenant's counter; then arrival. For every `aging_s` seconds of waiting
    a priority counts one more, up to the highest that waits, so that no priority waits for ever and
    none is above fairness for having waited. `weight_of` gives a tenant's share.
    """

    def __init__(
        self,
        weight_of: Callable[[str], float] = lambda tenant: 1.0,
        aging_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weight_of, self.aging_s, self.clock = weight_of, aging_s, clock
        self._lanes: dict[_Lane, deque[Sequence]] = {}
        self._waiting: Counter[str] = Counter()
        self._served: dict[str, float] = {}
        self._top = 0
        """The highest priority that waits."""
        self._floor = 0.0
        """The counter of the tenant that left the queue last: what newcomers to an empty queue
        start from."""

    def __len__(self) -> int:
        return self._waiting.total()

    def __iter__(self) -> Iterator[Sequence]:
        return (seq for lane in self._lanes.values() for seq in lane)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._lanes.get(_lane(seq), ())

    def add(self, seq: Sequence) -> None:
        self._enter(seq.tenant)
        self._lanes.setdefault(_lane(seq), deque()).append(seq)

    def add_first(self, seq: Sequence) -> None:
        """Put it back to the front of its lane: it was preempted."""
        self._enter(seq.tenant)
        self._lanes.setdefault(_lane(seq), deque()).appendleft(seq)

    def remove(self, seq: Sequence) -> None:
        lane = self._lanes[_lane(seq)]
        lane.remove(seq)
        if not lane:
            del self._lanes[_lane(seq)]
        self._waiting[seq.tenant] -= 1
        if not self._waiting[seq.tenant]:
            del self._waiting[seq.tenant]
            self._floor = max(self._floor, self._served[seq.tenant])

    def charge(self, tenant: str, cost: float) -> None:
        """The tenant was served tokens worth `cost`."""
        self._served[tenant] = self._served.get(tenant, self._floor) + cost / self._weight_of(
            tenant
        )

    def has_other(self, tenant: str) -> bool:
        """Whether any other tenant waits."""
        return len(self._waiting) > (tenant in self._waiting)

    def served(self, tenant: str) -> float:
        """The counter: cost divided by weight."""
        return self._served.get(tenant, self._floor)

    def heads(self) -> list[Sequence]:
        """The first of every lane, the most urgent first."""
        self._top = max((priority for _, _, priority in self._lanes), default=0)
        return sorted(
            (lane[0] for lane in self._lanes.values()), key=lambda s: (*self.turn(s), s.arrived)
        )

    def turn(self, seq: Sequence) -> tuple[float, float]:
        """(- priority with its aging, tokens served to the tenant): the smallest goes first."""
        aged = seq.priority + int((self.clock() - seq.arrived) / self.aging_s)
        return -max(seq.priority, min(aged, self._top)), self.served(seq.tenant)

    def forget(self, tenant: str) -> None:
        """Drop the counter of an adapter that is gone."""
        if tenant not in self._waiting:
            self._served.pop(tenant, None)

    def _enter(self, tenant: str) -> None:
        if tenant not in self._waiting:
            least = min((self._served[t] for t in self._waiting), default=self._floor)
            self._served[tenant] = max(self._served.get(tenant, 0.0), least)
        self._waiting[tenant] += 1


def _lane(seq: Sequence) -> _Lane:
    return seq.tenant, seq.kv_version, seq.priority
