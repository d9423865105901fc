"""The simulated fleet: nothing is lost, nothing is by chance but what a seed says, and what queueing
theory knows of a server comes out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.scale.costs import Costs, Process, Steps
from benchmarks.scale.events import Events
from benchmarks.scale.fleet import Fleet
from benchmarks.scale.front import FEW, MANY, fitted_process
from benchmarks.scale.host import SWITCH_S, Host, Lock, Thread
from benchmarks.scale.load import Load
from benchmarks.scale.maglev import bounded, hashed, table
from benchmarks.scale.policies import POLICIES
from benchmarks.scale.replica import Sizes
from benchmarks.scale.traffic import Outcome, Traffic
from lora_runtime import EngineConfig

STEP_S = 0.01
FRONT = Process(wake=0.0005, call=0.001, token=0.0001)
COSTS = Costs(Steps(0.002, 0.0004, 0.0001, 0.0003), (0.02, 0.03), FRONT)
ONE_AT_A_TIME = Costs(Steps(STEP_S, 0, 0, 0), (0.0,), Process())
ZIPF = [1 / rank for rank in range(1, 65)]


def fleet_of(
    policy: str, costs: Costs = COSTS, replicas: int = 3, seed: int = 0, **config: int
) -> Fleet:
    make = next(p for p in POLICIES if p.name == policy).of(seed)
    given: dict[str, Any] = {"max_adapters": 16, "adapter_host_bytes": 0, **config}
    sizes = Sizes(EngineConfig(**given))
    return Fleet(Events(), replicas, costs, sizes, make, seed=seed)


def simulated(policy: str, load: Load, seed: int = 0) -> Outcome:
    fleet = fleet_of(policy, seed=seed)
    traffic = Traffic(fleet, load, seed)
    traffic.begin()
    fleet.events.run(traffic.goes_on)
    return traffic.outcome


LOAD = Load(ZIPF, 150, 100, 32, 4, concurrency=16)


@pytest.mark.parametrize("policy", [p.name for p in POLICIES])
def test_every_request_is_answered_once(policy: str) -> None:
    outcome = simulated(policy, LOAD)
    assert outcome.sent == len(outcome.ttft_s) == sum(outcome.calls) == 150
    assert outcome.refused == outcome.lost == 0
    assert 0 < outcome.loads < 150


def test_a_seed_says_everything() -> None:
    first, again, other = (simulated("least request", LOAD, seed) for seed in (1, 1, 2))
    assert (first.ttft_s, first.adapters, first.loads) == (
        again.ttft_s,
        again.adapters,
        again.loads,
    )
    assert first.ttft_s != other.ttft_s


def test_policies_that_know_the_adapter_load_less() -> None:
    loads = {name: simulated(name, LOAD).loads for name in ("round robin", "hash", "picker")}
    assert loads["hash"] < loads["round robin"] / 2
    assert loads["picker"] < loads["round robin"] / 2


def test_slots_that_hold_all_adapters_load_each_once_a_replica() -> None:
    fleet = fleet_of("round robin", max_adapters=64)
    traffic = Traffic(fleet, replace(LOAD, requests=600), 0)
    traffic.begin()
    fleet.events.run(traffic.goes_on)
    loaded = sum(len(replica.store.resident) for replica in fleet.replicas)
    assert len(fleet.loaded_s) == loaded


def test_a_server_of_one_at_a_time_waits_as_queueing_theory_has_it() -> None:
    """M/D/1: the mean wait is utilisation / (2 (1 - utilisation)) services."""
    utilisation = 0.6
    fleet = fleet_of("round robin", ONE_AT_A_TIME, replicas=1, max_running=1, max_waiting=4000)
    load = Load([1.0], 6000, 200, 8, 1, rate=utilisation / STEP_S)
    traffic = Traffic(fleet, load, 0)
    traffic.begin()
    fleet.events.run(traffic.goes_on)
    mean_s = sum(traffic.outcome.ttft_s) / 6000
    expected_s = STEP_S * (1 + utilisation / (2 * (1 - utilisation)))
    assert mean_s == pytest.approx(expected_s, rel=0.05)


def test_what_a_lost_replica_had_not_begun_is_answered_by_others() -> None:
    fleet = fleet_of("least request")
    traffic = Traffic(fleet, replace(LOAD, requests=400, rate=300.0), 0)
    fleet.events.after(0.6, lambda: fleet.lose(1))
    traffic.begin()
    fleet.events.run(traffic.goes_on)
    outcome = traffic.outcome
    assert len(outcome.ttft_s) == 400
    assert outcome.lost < 20
    late = [n for n, at in zip(outcome.replicas, outcome.arrived_s, strict=True) if at > 0.6]
    assert late
    assert 1 not in late


def test_a_full_queue_refuses() -> None:
    fleet = fleet_of("round robin", replicas=1, max_running=2, max_waiting=2)
    traffic = Traffic(fleet, Load(ZIPF, 50, 0, 32, 4, rate=1e4), 0)
    traffic.begin()
    fleet.events.run(traffic.goes_on)
    outcome = traffic.outcome
    assert outcome.refused > 0
    assert len(outcome.ttft_s) + outcome.refused == 50


# --- the machine ------------------------------------------------------------------------------------


def ends(
    start: Callable[[Events, Callable[[str], Callable[[], None]]], object],
) -> dict[str, float]:
    """When what `start` starts is through, by name."""
    events, found = Events(), dict[str, float]()

    def noted(name: str) -> Callable[[], None]:
        return lambda: found.__setitem__(name, round(events.now, 9))

    start(events, noted)
    events.run()
    return found


def test_more_than_the_cores_share_them() -> None:
    def start(events: Events, noted: Callable[[str], Callable[[], None]]) -> None:
        host = Host(events, 2)
        for name, seconds in (("a", 2.0), ("b", 2.0), ("c", 2.0)):
            host.start(seconds, noted(name))
        events.after(1, lambda: host.start(0.5, noted("late")))

    found = ends(start)
    assert found["late"] == 2.0  # four share two cores
    assert found["a"] == found["b"] == found["c"] == pytest.approx(3.25)


def test_those_of_one_lock_take_turns_and_light_ones_have_what_is_left() -> None:
    def start(events: Events, noted: Callable[[str], Callable[[], None]]) -> None:
        lock, host = Lock(), Host(events, 2)
        host.start(1.0, noted("locked"), lock=lock)
        host.start(1.0, noted("locked too"), lock=lock)
        host.start(1.0, noted("free"))
        other = Host(events, 1)
        other.start(1.0, noted("heavy"))
        other.start(1.0, noted("light"), weight=0.25)

    found = ends(start)
    assert found.pop("locked") == pytest.approx(2.0 - SWITCH_S)
    assert found == {"free": 1.0, "heavy": 1.25, "locked too": 2.0, "light": 2.0}


def test_a_light_holder_of_a_lock_holds_up_who_waits_for_it_until_the_switch() -> None:
    def start(events: Events, noted: Callable[[str], Callable[[], None]]) -> None:
        lock, host = Lock(), Host(events, 1)
        host.start(1.0, noted("light"), weight=0.25, lock=lock)
        host.start(0.001, noted("heavy"), lock=lock)
        host.start(1.0, noted("elsewhere"))

    assert ends(start)["heavy"] == pytest.approx(SWITCH_S + 0.002)


def test_things_take_longer_beside_others() -> None:
    def start(events: Events, noted: Callable[[str], Callable[[], None]]) -> None:
        host = Host(events, 2, beside=1.25)
        host.start(1.0, noted("short"))
        host.start(2.0, noted("long"))

    assert ends(start) == {"short": 1.25, "long": 2.25}


def test_a_thread_does_one_thing_after_the_other_and_wakes_up_once_for_what_has_come() -> None:
    def start(events: Events, noted: Callable[[str], Callable[[], None]]) -> None:
        thread = Thread(Host(events, 2), wake_s=0.5)
        for name in ("first", "second", "third"):
            thread.start(1.0, noted(name))

    assert ends(start) == {"first": 1.5, "second": 3.0, "third": 4.0}


def test_what_processes_take_is_found_from_few_and_many_at_once() -> None:
    wake, call, token, told = 0.4, 2.0, 0.1, 4.0
    alone = [call + FEW * token + (1 + FEW) * wake, call + MANY * token + (1 + MANY) * wake]
    together = [call + n * token + (1 + n) * wake / told for n in (FEW, MANY)]
    found = fitted_process(alone, together, told)
    assert (found.wake, found.call, found.token) == pytest.approx((wake, call, token))


# --- Maglev -----------------------------------------------------------------------------------------


def test_maglev_shares_the_table_out_evenly_and_a_lost_host_moves_little() -> None:
    hosts, size = [f"0-{i}" for i in range(10)], 5003
    whole, less = table(hosts, size), table(hosts[:-1], size)
    shares = Counter(whole)
    assert max(shares.values()) - min(shares.values()) <= 1
    moved = sum(a != b for a, b in zip(whole, less, strict=True) if a != 9)
    assert moved < 0.15 * size


def test_maglev_does_not_depend_on_the_order_of_hosts() -> None:
    hosts = ["b", "a", "c"]
    there, back = table(hosts, 101), table(hosts[::-1], 101)
    assert [hosts[i] for i in there] == [hosts[::-1][i] for i in back]


def test_a_bound_sends_on_what_is_too_much_and_always_to_the_same() -> None:
    key = hashed("a")
    assert bounded(0, [2, 0, 0], 200, key) == 0
    other = bounded(0, [9, 1, 1], 150, key)
    assert other in (1, 2)
    assert bounded(0, [9, 1, 1], 150, key) == other
    full = [random.Random(seed).randint(5, 9) for seed in range(4)]
    assert 0 <= bounded(1, full, 100, key) < 4
