"""Routers by the names that the measurement has for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.placement.page import Page
from server.placement.placer import Placer
from server.placement.settings import Settings
from server.placement.targets import Address

from .fleet import Fleet, MakeRouter
from .routers import Hash, LeastRequest, RoundRobin, Router, Scored

PICKER_REFRESH_S = 0.05
ENVOY_REFRESH_S = 1.0
"""Seconds between Envoy's looks for another table."""


class _Looks:
    """What placement sees of the simulated replicas."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.pages: dict[str, Page] = {}
        self.addresses: dict[str, Address] = {}
        self.failures = 0

    def look(self) -> None:
        replicas = self._fleet.replicas
        self.pages = {
            name: Page(seen.slots, seen.resident, dict(one.work), one.loads)
            for name, seen in self._fleet.seen().items()
            for one in [replicas[int(name)]]
        }
        self.addresses = {name: Address(name, 1) for name in self.pages}


class Placed:
    """The project's own placement, which looks at its interval; Envoy takes up its table later, but
    for the first one, without which it does not begin.

    Who is not in the table goes by a fallback.
    """

    def __init__(self, fleet: Fleet, rng: random.Random, settings: Settings) -> None:
        self._fleet, self._rng, self._settings = fleet, rng, settings
        self._placer = Placer(settings, fleet.events.clock)
        self._placer.fleet = _Looks(fleet)  # type: ignore[assignment]
        self._fallback = LeastRequest(fleet, rng)
        self._table: Mapping[str, tuple[tuple[str, float], ...]] = {}
        self._look()
        if (first := self._placer.published) is not None:
            self._take(first.placement)

    def changed(self) -> None:
        self._alive = set(self._fleet.alive)

    def pick(self, adapter: str) -> int:
        """Pick by share; of the others the next that is there, as the list of hosts has it."""
        ways = self._table.get(adapter, ())
        if not ways:
            return self._fallback.pick(adapter)
        drawn = self._rng.choices(ways, [share for _, share in ways])[0][0]
        alive = [n for n in (drawn, *(name for name, _ in ways)) if int(n) in self._alive]
        return int(alive[0]) if alive else self._fallback.pick(adapter)

    def _look(self) -> None:
        self.changed()
        self._placer.look()
        events = self._fleet.events
        if (published := self._placer.published) is not None:
            late = self._rng.random() * ENVOY_REFRESH_S
            events.after(late, lambda: self._take(published.placement))
        events.after(self._settings.interval_s, self._look_again)

    def _look_again(self) -> None:
        if self._fleet.router is self:
            self._look()

    def _take(self, table: Mapping[str, tuple[tuple[str, float], ...]]) -> None:
        self._table = table


def _picker(fleet: Fleet, rng: random.Random) -> Router:
    router = Scored(fleet, rng)

    def refresh() -> None:
        if fleet.router is router:
            router.refresh()
            fleet.events.after(PICKER_REFRESH_S, refresh)

    fleet.events.after(PICKER_REFRESH_S, refresh)
    return router


@dataclass(frozen=True)
class Policy:
    """A router's name, and how it is made of a fleet."""

    name: str
    make: Callable[[Fleet, random.Random], Router]

    def of(self, seed: int) -> MakeRouter:
        return lambda fleet: self.make(fleet, random.Random(f"router {seed}"))


def placement(settings: Settings) -> Policy:
    return Policy("placement", lambda fleet, rng: Placed(fleet, rng, settings))


POLICIES = (
    Policy("round robin", lambda fleet, rng: RoundRobin(fleet)),
    Policy("least request", LeastRequest),
    Policy("hash", lambda fleet, rng: Hash(fleet)),
    Policy("hash, bound 150 %", lambda fleet, rng: Hash(fleet, 150)),
    Policy("hash, bound 200 %", lambda fleet, rng: Hash(fleet, 200)),
    placement(Settings([])),
    Policy("picker", _picker),
)
