"""The work of `loramux placement`: look, count, plan, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from .board import Replica
from .demand import Demand
from .fleet import Fleet
from .plan import Placement, Rules, plan
from .settings import Settings
from .table import version_of
from .targets import Address

log = structlog.get_logger("loramux.placement")

_LOADS_PER_MOVE = 4
"""For so many loads one may be caused by a move: where much is loaded, moves are worth it, and they
never add much."""
_FIRST_PART = 4
"""For one of so many slots the first plan may cause one."""
_SECONDS_PER_MOVE = 30
"""In so much time one may be caused besides: work is evened out where nothing is loaded, too."""


@dataclass(frozen=True)
class Published:
    """What Envoy is given: a placement and where its replicas are."""

    placement: Placement
    addresses: Mapping[str, Address]
    version: str = field(init=False)
    """Made once: every Envoy asks for it every second."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", version_of(self.placement))


@dataclass
class Counts:
    """What has been done so far, and how the last plan is."""

    looks: int = 0
    changes: int = 0
    """Placements that differed from the one before."""
    moves: int = 0
    """Loads that placements caused, of adapters that were in another slot."""
    most_over_mean: float = 1.0
    """Work of the replica that gets the most, over the mean, as planned."""


class Placer:
    """Keeps a placement of what its targets' replicas serve; for one thread at a time."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.fleet = Fleet(settings.targets)
        self.counts = Counts()
        self.published: Published | None = None
        """None until adapters were asked for."""
        self._moves = 0.0
        """Loads that plans may cost."""
        self._last_loads: dict[str, float] = {}
        self._demand = Demand(settings.half_life_s)
        self._clock = clock
        self._looked = clock()

    def look(self) -> None:
        """Look once, and plan by what is seen."""
        self.fleet.look()
        now = self._clock()
        seconds, self._looked = now - self._looked, now
        self.counts.looks += 1
        pages = self.fleet.pages
        slots = sum(page.slots for page in pages.values())
        earned = self._loads() / _LOADS_PER_MOVE + seconds / _SECONDS_PER_MOVE
        if self.published is None:
            earned = slots / _FIRST_PART
        self._moves = min(self._moves + earned, max(1, slots))
        demand = self._demand.count({name: page.work for name, page in pages.items()}, seconds)
        if pages and demand:
            self._plan(demand)

    def _plan(self, demand: Mapping[str, float]) -> None:
        replicas = {
            name: Replica(page.slots, page.resident) for name, page in self.fleet.pages.items()
        }
        current = self.published.placement if self.published else {}
        rules = Rules(self.settings.tolerance, int(self._moves))
        placement = plan(demand, replicas, current, rules)
        self.counts.most_over_mean = _most_over_mean(demand, placement, len(replicas))
        if placement != current:
            self._publish(current, placement)

    def _loads(self) -> float:
        """Loads since the last look, of the replicas that were seen then."""
        last, self._last_loads = self._last_loads, {n: p.loads for n, p in self.fleet.pages.items()}
        added = [now - last[name] for name, now in self._last_loads.items() if name in last]
        return sum(loads for loads in added if loads > 0)

    def _caused(self, current: Placement, placement: Placement) -> int:
        """Count loads that come of a change alone: of adapters that are in a slot, but not where
        they are placed now."""
        resident = {name: page.resident for name, page in self.fleet.pages.items()}
        caused = 0
        for adapter in current.keys() & placement:
            before, now = dict(current[adapter]), dict(placement[adapter])
            if any(adapter in resident.get(name, ()) for name in before):
                caused += sum(adapter not in resident[name] for name in now.keys() - before)
        return caused

    def _publish(self, current: Placement, placement: Placement) -> None:
        addresses = self.fleet.addresses
        self.published = Published(placement, addresses)
        moves = self._caused(current, placement)
        self._moves = max(0.0, self._moves - moves)
        self.counts.changes += 1
        self.counts.moves += moves
        log.info(
            "placement changed",
            adapters=len(placement),
            new=len(placement.keys() - current),
            dropped=len(current.keys() - placement),
            moves=moves,
            on_several=sum(len(ways) > 1 for ways in placement.values()),
            replicas=len(addresses),
            most_over_mean=round(self.counts.most_over_mean, 3),
        )


def _most_over_mean(demand: Mapping[str, float], placement: Placement, replicas: int) -> float:
    loads: dict[str, float] = {}
    for adapter, ways in placement.items():
        for name, share in ways:
            loads[name] = loads.get(name, 0.0) + share * demand[adapter]
    whole = sum(loads.values())
    return max(loads.values()) * replicas / whole if whole else 1.0
