"""The measured fleet beside its simulation: the same loads on the same costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import median
from typing import Any

from benchmarks.fleet.loads import CELLS, Cell
from lora_runtime import EngineConfig

from .costs import Costs
from .events import Events
from .fleet import Fleet
from .load import Load
from .policies import POLICIES, Policy
from .replica import Sizes
from .traffic import Outcome, Traffic

_OUTPUT_TOKENS = 8
_LEAST = 5
"""Of the figures: three loads of a thousand calls tell nothing of one."""
_ENVOY_STARTS_S = 2.0
"""From the first look of placement to the first request: the fleet waits for Envoy's health checks."""


def compared(measured: Mapping[str, Any], costs: Mapping[str, Costs]) -> dict[str, Any]:
    """Simulate every cell that was measured, and give both by cell and policy."""
    cells = [c for c in CELLS if c.name in measured["cells"] and c.base in costs]
    found: dict[str, Any] = {}
    for _, group in groupby(cells, key=lambda cell: cell.fleet):
        found |= _on_one_fleet(list(group), measured, costs)
    return found


def _on_one_fleet(
    cells: Sequence[Cell], measured: Mapping[str, Any], costs: Mapping[str, Costs]
) -> dict[str, Any]:
    """Simulate cells whose turns the same servers serve, one after the other: slots and counters are
    what the turns before have made of them."""
    site = Site(cells[0], costs[cells[0].base], measured["replicas"], measured["machine"]["cores"])
    found: dict[str, Any] = {}
    for cell in cells:
        figures = measured["cells"][cell.name]
        policies = [policy for policy in POLICIES if policy.name in figures]
        outcomes: dict[str, list[Outcome]] = {policy.name: [] for policy in policies}
        for number in range(measured["rounds"]):
            for policy in policies[:: -1 if number % 2 else 1]:
                outcomes[policy.name].append(site.turn(cell, policy, figures[policy.name], number))
        found[cell.name] = {name: _both(figures[name], of) for name, of in outcomes.items()}
    return found


class Site:
    """Servers on one machine that live through many turns, as the measured ones do."""

    def __init__(self, cell: Cell, costs: Costs, replicas: int, cores: int) -> None:
        self._events = Events()
        config = EngineConfig(max_adapters=cell.slots, adapter_host_bytes=0)
        first = POLICIES[0].of(0)
        self.fleet = Fleet(
            self._events, replicas, costs, Sizes(config), first, seed=0, cores=cores, shared=True
        )

    def turn(self, cell: Cell, policy: Policy, real: Mapping[str, Any], seed: int) -> Outcome:
        """Begin a router, warm up, and send the load, each when the one before is through."""
        self.fleet.route_by(policy.of(seed), seed)
        self._events.pass_by(_ENVOY_STARTS_S)
        names = list(cell.weights)
        everyone = range(len(names) - 1, -1, -1)
        warm = Load(
            list(cell.weights.values()),
            0,
            cell.warmup,
            round(real["prompt_tokens_per_call"]),
            _OUTPUT_TOKENS,
            concurrency=cell.concurrency,
            names=names,
        )
        self._sent(replace(warm, warmup=0), seed, everyone)
        self._sent(warm, seed)
        return self._sent(replace(warm, warmup=0, requests=cell.calls, rate=real["rate"]), seed)

    def _sent(self, load: Load, seed: int, first: Sequence[int] = ()) -> Outcome:
        traffic = Traffic(self.fleet, load, seed)
        traffic.begin(first)
        self._events.run(traffic.goes_on)
        return traffic.outcome


def _both(real: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """What was measured, and what was simulated."""
    return {
        "loads_per_1000": [real["loads_per_1000"], _loads(outcomes)],
        "ttft_p50_ms": [real["ttft_ms"]["all"][0], _p50_ms(outcomes)],
        "balance": [real["balance_requests"], _balance(outcomes)],
        "calls_per_s": [real["calls_per_s"], _rate(outcomes)],
    }


def differences(found: Mapping[str, Any], base: str, what: str) -> list[float]:
    """How far the simulation is from the measurement, as a part of it, for each cell of a base and
    each policy. Left out is what is next to nothing."""
    cells = [cell for name, cell in found.items() if name.partition("-")[0] == base]
    pairs = [policy[what] for cell in cells for policy in cell.values()]
    return [simulation / real - 1 for real, simulation in pairs if real > _LEAST]


def _loads(outcomes: Sequence[Outcome]) -> float:
    return 1000 * sum(o.loads for o in outcomes) / sum(o.sent for o in outcomes)


def _p50_ms(outcomes: Sequence[Outcome]) -> float:
    return 1e3 * median(value for o in outcomes for value in o.ttft_s)


def _balance(outcomes: Sequence[Outcome]) -> float:
    return sum(max(o.calls) * len(o.calls) / sum(o.calls) for o in outcomes) / len(outcomes)


def _rate(outcomes: Sequence[Outcome]) -> float:
    return sum(o.sent for o in outcomes) / sum(o.ended_s - o.began_s for o in outcomes)
