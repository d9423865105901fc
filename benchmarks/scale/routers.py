"""How a call's replica is picked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Protocol

from server.placement.board import Replica as Seen

from .maglev import TABLE_SIZE, bounded, hashed, table


class View(Protocol):
    """What routers know of replicas: by number, those that are gone are None."""

    keys: list[str]
    """Names by which hashes know replicas."""
    active: list[int]
    """Calls that Envoy has on each."""
    alive: list[int]
    """Numbers of those that are there."""

    def seen(self) -> Mapping[str, Seen]:
        """Give the slots of each replica that is there, and what is in them, by number."""


class Router(Protocol):
    """Way to pick."""

    def pick(self, adapter: str) -> int: ...

    def changed(self) -> None:
        """Take up that replicas have come or gone."""


class RoundRobin:
    """One after the other."""

    def __init__(self, view: View) -> None:
        self._view, self._next = view, count()

    def pick(self, adapter: str) -> int:
        alive = self._view.alive
        return alive[next(self._next) % len(alive)]

    def changed(self) -> None:
        pass


class LeastRequest:
    """Of two by chance the one with fewer calls, as Envoy has it."""

    def __init__(self, view: View, rng: random.Random) -> None:
        self._view, self._rng = view, rng

    def pick(self, adapter: str) -> int:
        one, other = (self._rng.choice(self._view.alive) for _ in range(2))
        return min(one, other, key=lambda number: self._view.active[number])

    def changed(self) -> None:
        pass


class Hash:
    """Maglev by the adapter, with a bound on a replica's calls or without."""

    def __init__(self, view: View, factor: int = 0, size: int = TABLE_SIZE) -> None:
        """`factor`: the bound in percent of the mean; 0: none."""
        self._view, self._factor, self._size = view, factor, size
        self.changed()

    def changed(self) -> None:
        self._alive = list(self._view.alive)
        self._table = table([self._view.keys[number] for number in self._alive], self._size)

    def pick(self, adapter: str) -> int:
        key = hashed(adapter)
        first = self._table[key % self._size]
        if not self._factor:
            return self._alive[first]
        active = [self._view.active[number] for number in self._alive]
        return self._alive[bounded(first, active, self._factor, key)]


class Scored:
    """An endpoint picker's way with its scorers: who holds the adapter, then who has few calls.

    It reads residency every `refresh_s` seconds, and knows of its own picks at once.
    """

    def __init__(
        self,
        view: View,
        rng: random.Random,
        *,
        affinity: float = 20,
        load: float = 1,
        most_waiting: int = 5,
    ) -> None:
        """`affinity`, `load`: the scorers' weights. `most_waiting`: calls beyond the fewest that a
        replica may have to be looked at."""
        self._view, self._rng = view, rng
        self._affinity, self._load, self._most_waiting = affinity, load, most_waiting
        self.residents: Sequence[frozenset[str]] = []
        self._picked: list[set[str]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read who holds what."""
        seen = self._view.seen()
        size = len(self._view.active)
        empty = Seen(0)
        self.residents = [seen.get(str(number), empty).resident for number in range(size)]
        self._free = [
            seen.get(str(number), empty).slots > len(self.residents[number])
            for number in range(size)
        ]
        self._picked = [set() for _ in range(size)]

    def changed(self) -> None:
        self.refresh()

    def pick(self, adapter: str) -> int:
        active, alive = self._view.active, self._view.alive
        low = min(active[number] for number in alive)
        high = max(active[number] for number in alive)
        best, found = -1.0, list[int]()
        for number in alive:
            if active[number] > low + self._most_waiting:
                continue
            score = self._affinity * self._held(adapter, number)
            score += self._load * ((high - active[number]) / (high - low) if high > low else 1.0)
            if score > best + 1e-9:
                best, found = score, [number]
            elif score > best - 1e-9:
                found.append(number)
        number = self._rng.choice(found)
        self._picked[number].add(adapter)
        return number

    def _held(self, adapter: str, number: int) -> float:
        if adapter in self.residents[number] or adapter in self._picked[number]:
            return 1.0
        return 0.8 if self._free[number] else 0.0
