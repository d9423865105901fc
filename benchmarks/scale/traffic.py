"""The calls of a load that go through a fleet's router, and what comes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from server.bench.draws.arrivals import Arrivals, arrival_times
from server.bench.draws.popularity import weighted

from .fleet import Fleet
from .load import Load
from .replica import Asked


@dataclass
class Outcome:
    """What came of a load's counted requests."""

    ttft_s: list[float] = field(default_factory=list)
    adapters: list[int] = field(default_factory=list)
    """Whom each of these asked."""
    arrived_s: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    """Who answered each."""
    sent: int = 0
    refused: int = 0
    lost: int = 0
    """Begun when their replica was lost."""
    loads: int = 0
    began_s: float = 0.0
    ended_s: float = 0.0
    calls: list[int] = field(default_factory=list)
    """Counted requests by replica."""
    tokens: list[int] = field(default_factory=list)


class Traffic:
    """A load on a fleet: requests are made, and what comes of them is kept."""

    def __init__(self, fleet: Fleet, load: Load, seed: int) -> None:
        self.outcome = Outcome(calls=[0] * len(fleet.replicas), tokens=[0] * len(fleet.replicas))
        self._fleet, self._load = fleet, load
        self._events = fleet.events
        # As the bench draws them: the same seed names the same adapters there.
        self._warmup, self._draws = (
            self._drawn(load.weights, f"adapters {kind}{seed}") for kind in ("warm-up ", "")
        )
        self._lengths = random.Random(f"lengths {seed}")
        self._times = arrival_times(
            Arrivals.POISSON, load.rate or 1.0, 1.0, random.Random(f"arrivals {seed}")
        )
        self._due = 0.0
        self._left = load.warmup + load.requests
        self._before = 0
        self._under_way = 0

    def begin(self, first: Sequence[int] = ()) -> None:
        """Send the load; `first`: adapters that are asked once before it, not counted."""
        self._first = list(first)
        self._left += len(self._first)
        if self._load.rate is not None:
            self._await_arrival()
        else:
            for _ in range(self._load.concurrency):
                self._send()

    def shift(self, weights: Sequence[float], seed: int) -> None:
        """Let others be popular from now on."""
        self._draws = self._drawn(weights, f"shifted {seed}")

    @staticmethod
    def _drawn(weights: Sequence[float], seed: str) -> Iterator[int]:
        numbers = [str(number) for number in range(len(weights))]
        return map(int, weighted(numbers, weights, random.Random(seed)))

    def _await_arrival(self) -> None:
        before, self._due = self._due, next(self._times)
        self._events.after(self._due - before, self._arrive)

    def _arrive(self) -> None:
        self._send()
        if self._left > 0:
            self._await_arrival()

    def _send(self) -> None:
        if self._left <= 0:
            return
        self._left -= 1
        self._under_way += 1
        counted = self._left < self._load.requests
        draws = self._draws if counted else self._warmup
        adapter = self._first.pop(0) if self._first else next(draws)
        if counted and not self.outcome.sent:
            self._before, self.outcome.began_s = len(self._fleet.loaded_s), self._events.now
        self.outcome.sent += counted
        call = _Call(self, adapter, counted, *self._load.lengths(self._lengths))
        self._fleet.towards(call.route)

    @property
    def under_way(self) -> int:
        """Calls that have no end yet."""
        return self._under_way

    def ended(self) -> None:
        """Take up that a call is over."""
        self._under_way -= 1
        self.outcome.loads = len(self._fleet.loaded_s) - self._before
        self.outcome.ended_s = self._events.now
        if self._load.rate is None:
            self._send()

    def goes_on(self) -> bool:
        """Whether there are calls to send, or under way."""
        return self._left > 0 or self._under_way > 0

    def name(self, adapter: int) -> str:
        """Give an adapter's id: as the measurement has it where there are names, else its number."""
        names = self._load.names
        return names[adapter] if names else f"a{adapter}"

    @property
    def fleet(self) -> Fleet:
        return self._fleet


class _Call:
    def __init__(
        self, traffic: Traffic, adapter: int, counted: bool, prompt: int, output: int
    ) -> None:
        self._traffic, self._adapter, self._counted = traffic, adapter, counted
        self._prompt, self._output = prompt, output
        self._arrived = traffic.fleet.events.now
        self._is_first = True
        self._number = -1

    def route(self) -> None:
        """Pick a replica and ask it."""
        fleet, outcome = self._traffic.fleet, self._traffic.outcome
        name = self._traffic.name(self._adapter)
        self._number = number = fleet.router.pick(name)
        fleet.active[number] += 1
        asked = Asked(name, self._prompt, self._output, self._token, self._lost)
        if not fleet.replicas[number].submit(asked):
            fleet.active[number] -= 1
            outcome.refused += self._counted
            self._traffic.ended()
        elif self._counted:
            outcome.calls[number] += 1
            outcome.tokens[number] += self._prompt + self._output

    def _lost(self) -> None:
        """Ask another replica, unless the answer has begun."""
        if self._is_first:
            self.route()
        else:
            self._traffic.outcome.lost += self._counted
            self._traffic.ended()

    def _token(self, asked: Asked, is_last: bool) -> None:
        is_first, self._is_first = self._is_first, False
        self._traffic.fleet.back(partial(self._heard, is_first, is_last))

    def _heard(self, is_first: bool, is_last: bool) -> None:
        fleet, outcome = self._traffic.fleet, self._traffic.outcome
        if is_first and self._counted:
            outcome.ttft_s.append(fleet.events.now - self._arrived)
            outcome.arrived_s.append(self._arrived)
            outcome.adapters.append(self._adapter)
            outcome.replicas.append(self._number)
        if is_last:
            fleet.active[self._number] -= 1
            self._traffic.ended()
