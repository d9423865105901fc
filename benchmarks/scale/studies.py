"""What policies do at scale: how many replicas a load needs, what a lost one costs, what happens when
a tenant's adapters get hot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.common.report import percentiles
from benchmarks.fleet.loads import zipf
from lora_runtime import EngineConfig

from .costs import Costs
from .events import Events
from .fleet import Fleet
from .load import Load
from .policies import POLICIES
from .replica import Sizes
from .traffic import Outcome, Traffic

_STUCK = 200
"""Calls under way for each replica, beyond which a fleet does not keep up."""
_HISTORY_S = 3600
"""Seconds of the load that replicas have counted before it begins, for who plans by counters."""


@dataclass(frozen=True)
class Setup:
    """A fleet at scale and what is asked of it."""

    replicas: int = 64
    adapters: int = 10_000
    slots: int = 64
    cores: int = 2
    prompt_tokens: int = 64
    output_tokens: int = 16
    warmup: int = 1_000
    requests: int = 2_500
    objective_s: float = 0.5
    """TTFT that 99 of 100 requests are to have."""

    @cached_property
    def weights(self) -> list[float]:
        return zipf(self.adapters)


class Run:
    """One load on one fleet."""

    def __init__(
        self, setup: Setup, costs: Costs, policy: str, rate: float, seed: int, requests: int = 0
    ) -> None:
        self.setup = setup
        self.events = Events()
        config = EngineConfig(max_adapters=setup.slots, adapter_host_bytes=0)
        make = next(p for p in POLICIES if p.name == policy).of(seed)
        self.fleet = Fleet(
            self.events,
            setup.replicas,
            costs,
            Sizes(config),
            lambda fleet: make(_with_history(fleet, setup, rate)),
            seed=seed,
            cores=setup.cores,
        )
        load = Load(
            setup.weights,
            requests or setup.requests,
            setup.warmup,
            setup.prompt_tokens,
            setup.output_tokens,
            rate=rate,
            spread=True,
        )
        self.traffic = Traffic(self.fleet, load, seed)

    def go(self, begins: Callable[[], object] = lambda: None) -> Outcome | None:
        """Run it; `begins` is called with the first counted request. Gives None where the fleet
        does not keep up."""
        setup, traffic = self.setup, self.traffic
        most = _STUCK * setup.replicas
        filling = min(setup.adapters, setup.slots * setup.replicas)
        traffic.begin(range(filling - 1, -1, -1))
        self.events.run(lambda: traffic.goes_on() and not traffic.outcome.sent)
        begins()
        self.events.run(lambda: traffic.goes_on() and traffic.under_way < most)
        return None if traffic.goes_on() else traffic.outcome


def _with_history(fleet: Fleet, setup: Setup, rate: float) -> Fleet:
    """Let the replicas' counters say what such a load would have made of them for a while."""
    each = rate * _HISTORY_S * (setup.prompt_tokens + setup.output_tokens) / sum(setup.weights)
    for replica in fleet.replicas:
        replica.work = {
            f"a{number}": each * weight / setup.replicas
            for number, weight in enumerate(setup.weights)
        }
    return fleet


def capacity(setup: Setup, costs: Costs, policy: str, seed: int, steps: int = 5) -> dict[str, Any]:
    """Find the highest rate at which the TTFT objective holds, by halving; with its loads."""
    low, high = 0.0, _ceiling(setup, costs)
    best: dict[str, Any] = {}
    for _ in range(steps):
        rate = (low + high) / 2
        outcome = Run(setup, costs, policy, rate, seed).go()
        if outcome is None or _p(outcome.ttft_s, 99) > setup.objective_s or outcome.refused:
            high = rate
        else:
            low, best = rate, figures(outcome)
    return best | {"calls_per_s": low, "replicas_per_million_a_day": _needed(setup, low)}


def figures(outcome: Outcome) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "loads_per_1000": 1000 * outcome.loads / outcome.sent,
        "ttft_p50_ms": 1e3 * _p(outcome.ttft_s, 50),
        "ttft_p99_ms": 1e3 * _p(outcome.ttft_s, 99),
        "balance": max(outcome.calls) * len(outcome.calls) / sum(outcome.calls),
    }


def lost(setup: Setup, costs: Costs, policy: str, rate: float, seed: int) -> dict[str, Any]:
    """Lose the replica with the most calls when a third of the requests are through."""
    run = Run(setup, costs, policy, rate, seed, requests=2 * setup.requests)

    def lose() -> None:
        calls = run.traffic.outcome.calls
        run.fleet.lose(max(run.fleet.alive, key=lambda number: calls[number]))

    return _changed(run, rate, lose)


def hot(setup: Setup, costs: Costs, policy: str, rate: float, seed: int) -> dict[str, Any]:
    """Let a tenant's hundred adapters, which were hardly asked for, have a third of the requests."""
    run = Run(setup, costs, policy, rate, seed, requests=2 * setup.requests)
    theirs = range(setup.adapters // 2, setup.adapters // 2 + 100)
    weights = list(setup.weights)
    for number in theirs:
        weights[number] = 0.5 * sum(setup.weights) / len(theirs)
    return _changed(run, rate, lambda: run.traffic.shift(weights, seed))


def _changed(run: Run, rate: float, change: Callable[[], object]) -> dict[str, Any]:
    """Run with a change after a third of the requests; gives figures by second around it."""
    after_s = 2 * run.setup.requests / rate / 3
    at: list[float] = []

    def begins() -> None:
        at.append(run.events.now + after_s)
        run.events.after(after_s, change)

    outcome = run.go(begins)
    if outcome is None:
        return {"rate": rate, "keeps_up": False}
    return {"rate": rate, "keeps_up": True, "lost": outcome.lost} | by_second(
        outcome, run.fleet.loaded_s, at[0], after_s
    )


def by_second(
    outcome: Outcome, loaded_s: Sequence[float], at: float, after_s: float
) -> dict[str, Any]:
    """Loads and TTFT of each second, counted from the change."""
    seconds = range(-int(after_s), int(2 * after_s))
    ttfts: dict[int, list[float]] = {second: [] for second in seconds}
    loads = dict.fromkeys(seconds, 0)
    for arrived, ttft in zip(outcome.arrived_s, outcome.ttft_s, strict=True):
        if (second := int((arrived - at) // 1)) in ttfts:
            ttfts[second].append(ttft)
    for when in loaded_s:
        if (second := int((when - at) // 1)) in loads:
            loads[second] += 1
    return {
        "second": list(seconds),
        "loads": list(loads.values()),
        "ttft_p50_ms": [1e3 * _p(values, 50) for values in ttfts.values()],
        "ttft_p99_ms": [1e3 * _p(values, 99) for values in ttfts.values()],
    }


def _needed(setup: Setup, calls_per_s: float) -> float:
    return setup.replicas / (calls_per_s * 86_400 / 1e6) if calls_per_s else float("inf")


def _ceiling(setup: Setup, costs: Costs) -> float:
    """Calls a second beyond which no fleet of that size comes: steps of 32 rows, and no load."""
    rows = 32
    decode_s = costs.steps.of(rows, 0, 1) / rows * setup.output_tokens
    return setup.replicas / (decode_s + costs.steps.prefill_token * setup.prompt_tokens)


def _p(values: Sequence[float], percent: int) -> float:
    return percentiles(values)[percent - 1] if values else 0.0
