"""The waiting queue: who is served next, so that no adapter's traffic starves another's.

Virtual token counter, from "Fairness in Serving Large Language Models" (arXiv:2401.00588): every
adapter (and the base) has a counter of the tokens it was served, divided by its weight, and the one
with the smallest goes next. An adapter that was away is lifted to the smallest counter of those
that wait, so that idleness earns no credit. Callers have such counters too, over all adapters: those
of one adapter share its turns by them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from ..requests.sequence import Sequence
from .crowd import Crowd, Turn

PROMPT_COST = 1.0
OUTPUT_COST = 2.0
"""What a token costs; decoding one costs more than computing one of a prompt, as in the paper."""

_Lane = tuple[str, str, str, int]
"""(tenant, caller, adapter versions, priority): its sequences run or wait for the same reasons,
first come, first served."""


class Counters:
    """Counters of what was served to those that wait together, divided by their weights."""

    def __init__(self, weight_of: Callable[[str], float] = lambda name: 1.0) -> None:
        self._weight_of = weight_of
        self.waiting: Counter[str] = Counter()
        self._served: dict[str, float] = {}
        self._floor = 0.0
        """The counter of the one that left the queue last: what newcomers to an empty queue start
        from."""

    def enter(self, name: str) -> None:
        if name not in self.waiting:
            least = min((self._served[n] for n in self.waiting), default=self._floor)
            self._served[name] = max(self._served.get(name, 0.0), least)
        self.waiting[name] += 1

    def leave(self, name: str) -> None:
        self.waiting[name] -= 1
        if not self.waiting[name]:
            del self.waiting[name]
            self._floor = max(self._floor, self._served[name])

    def charge(self, name: str, cost: float) -> None:
        self._served[name] = self.served(name) + cost / self._weight_of(name)

    def served(self, name: str) -> float:
        return self._served.get(name, self._floor)

    def forget(self, name: str) -> None:
        """Drop a counter, unless its owner waits."""
        if name not in self.waiting:
            self._served.pop(name, None)


class FairQueue:
    """Not thread-safe: the engine thread owns it.

    Order: priority; then the tenant's counter; then its caller's; then arrival. For every `aging_s`
    seconds of waiting a priority counts one more, up to the highest that waits, so that no priority
    waits for ever and none is above fairness for having waited. `weight_of` gives a tenant's share.
    """

    def __init__(
        self,
        weight_of: Callable[[str], float] = lambda tenant: 1.0,
        aging_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.aging_s, self.clock = aging_s, clock
        self._lanes: dict[_Lane, deque[Sequence]] = {}
        self._tenants = Counters(weight_of)
        self._callers = Counters()
        self._top = 0
        """The highest priority that waits."""

    def __len__(self) -> int:
        return self._tenants.waiting.total()

    def __iter__(self) -> Iterator[Sequence]:
        return (seq for lane in self._lanes.values() for seq in lane)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._lanes.get(_lane(seq), ())

    def add(self, seq: Sequence) -> None:
        self._enter(seq)
        self._lanes.setdefault(_lane(seq), deque()).append(seq)

    def add_first(self, seq: Sequence) -> None:
        """Put it back to the front of its lane: it was preempted."""
        self._enter(seq)
        self._lanes.setdefault(_lane(seq), deque()).appendleft(seq)

    def remove(self, seq: Sequence) -> None:
        lane = self._lanes[_lane(seq)]
        lane.remove(seq)
        if not lane:
            del self._lanes[_lane(seq)]
        self._tenants.leave(seq.tenant)
        self._callers.leave(seq.caller)

    def charge(self, tenant: str, cost: float, caller: str = "") -> None:
        """The tenant's caller was served tokens worth `cost`."""
        self._tenants.charge(tenant, cost)
        self._callers.charge(caller, cost)

    def has_other(self, crowd: Crowd) -> bool:
        """Whether any other tenant, or caller, waits."""
        waiting = (self._callers if crowd.by_caller else self._tenants).waiting
        return len(waiting) > (crowd.name in waiting)

    def served(self, tenant: str) -> float:
        """The counter: cost divided by weight."""
        return self._tenants.served(tenant)

    def served_to(self, crowd: Crowd) -> float:
        return self._callers.served(crowd.name) if crowd.by_caller else self.served(crowd.name)

    def heads(self) -> list[Sequence]:
        """The first of every lane, the most urgent first."""
        self._top = max((lane[-1] for lane in self._lanes), default=0)
        return sorted(
            (lane[0] for lane in self._lanes.values()), key=lambda s: (*self.turn(s), s.arrived)
        )

    def turn(self, seq: Sequence) -> Turn:
        return (
            -max(seq.priority, min(self.aged(seq), self._top)),
            self.served(seq.tenant),
            self._callers.served(seq.caller),
        )

    def aged(self, seq: Sequence) -> int:
        """Its priority and what it has waited for."""
        return seq.priority + int((self.clock() - seq.arrived) / self.aging_s)

    def forget(self, tenant: str) -> None:
        """Drop the counter of an adapter that is gone."""
        self._tenants.forget(tenant)

    def _enter(self, seq: Sequence) -> None:
        self._tenants.enter(seq.tenant)
        self._callers.enter(seq.caller)


def _lane(seq: Sequence) -> _Lane:
    return seq.tenant, seq.caller, seq.kv_version, seq.priority
