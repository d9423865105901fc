"""The measured fleet beside its simulation: the same loads on the same costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.fleet.loads import CELLS, Cell
from lora_runtime import EngineConfig

from .costs import Costs
from .events import Events
from .fleet import Fleet, Outcome, Traffic
from .load import Load
from .policies import POLICIES, Policy
from .replica import Sizes

_OUTPUT_TOKENS = 8


def compared(measured: Mapping[str, Any], costs: Mapping[str, Costs]) -> dict[str, Any]:
    """Simulate every cell that was measured, and give both by cell and policy."""
    found: dict[str, Any] = {}
    for cell in CELLS:
        if cell.name in measured["cells"] and cell.base in costs:
            found[cell.name] = _cell(cell, measured, costs[cell.base])
    return found


def _cell(cell: Cell, measured: Mapping[str, Any], costs: Costs) -> dict[str, Any]:
    figures = measured["cells"][cell.name]
    found = {}
    for policy in POLICIES:
        if (real := figures.get(policy.name)) is None:
            continue
        outcomes = [
            simulated(cell, policy, costs, measured, real, seed)
            for seed in range(measured["rounds"])
        ]
        found[policy.name] = {
            "loads_per_1000": [real["loads_per_1000"], _loads(outcomes)],
            "ttft_p50_ms": [real["ttft_ms"]["all"][0], _p50_ms(outcomes)],
            "balance": [real["balance_requests"], _balance(outcomes)],
            "calls_per_s": [real["calls_per_s"], _rate(outcomes)],
        }
    return found


def simulated(
    cell: Cell,
    policy: Policy,
    costs: Costs,
    measured: Mapping[str, Any],
    real: Mapping[str, Any],
    seed: int,
) -> Outcome:
    """Simulate one turn of a cell, on one machine as it was measured."""
    events = Events()
    config = EngineConfig(max_adapters=cell.slots, adapter_host_bytes=0)
    fleet = Fleet(
        events,
        measured["replicas"],
        costs,
        Sizes(config),
        policy.of(seed),
        seed=seed,
        cores=measured["machine"]["cores"],
        shared=True,
    )
    load = Load(
        list(cell.weights.values()),
        cell.calls,
        cell.warmup,
        round(real["prompt_tokens_per_call"]),
        _OUTPUT_TOKENS,
        rate=real["rate"],
        concurrency=cell.concurrency,
        names=list(cell.weights),
    )
    traffic = Traffic(fleet, load, costs, seed)
    traffic.begin(range(len(cell.weights) - 1, -1, -1))
    events.run(traffic.goes_on)
    return traffic.outcome


def differences(found: Mapping[str, Any], what: str) -> list[float]:
    """How far the simulation is from the measurement, as a part of it, for each cell and policy."""
    pairs = [policy[what] for cell in found.values() for policy in cell.values()]
    return [simulation / real - 1 for real, simulation in pairs if real]


def _loads(outcomes: Sequence[Outcome]) -> float:
    return 1000 * sum(o.loads for o in outcomes) / sum(o.sent for o in outcomes)


def _p50_ms(outcomes: Sequence[Outcome]) -> float:
    return 1e3 * median(value for o in outcomes for value in o.ttft_s)


def _balance(outcomes: Sequence[Outcome]) -> float:
    return sum(max(o.calls) * len(o.calls) / sum(o.calls) for o in outcomes) / len(outcomes)


def _rate(outcomes: Sequence[Outcome]) -> float:
    return sum(o.sent for o in outcomes) / sum(o.ended_s - o.began_s for o in outcomes)
