"""Placements hold what they promise, whatever is asked for and wherever it is."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.placement.board import Replica
from server.placement.plan import Placement, Rules, plan

WORK = st.floats(0, 1e6, allow_nan=False, width=32)
EVENLY = Rules(tolerance=0.05, moves=10_000)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, Replica]]:
    demand = {f"a{i}": draw(WORK) for i in range(draw(st.integers(1, 40)))}
    resident = st.frozensets(st.sampled_from(sorted(demand)), max_size=8)
    count = draw(st.integers(1, 6))
    replicas = {f"r{i}": Replica(draw(st.integers(1, 12)), draw(resident)) for i in range(count)}
    return demand, replicas


def zipf(count: int) -> dict[str, float]:
    return {f"a{i:05}": 1 / (i + 1) for i in range(count)}


def loads(placement: Placement, demand: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for adapter, ways in placement.items():
        for name, share in ways:
            found[name] = found.get(name, 0.0) + share * demand[adapter]
    return found


def most_over_mean(placement: Placement, demand: Mapping[str, float], replicas: int) -> float:
    return max(loads(placement, demand).values()) * replicas / sum(demand.values())


def came(before: Placement, now: Placement) -> set[tuple[str, str]]:
    """Adapters that had replicas and now have one more, with that one."""
    return {
        (adapter, name)
        for adapter in before.keys() & now
        for name in {n for n, _ in now[adapter]} - {n for n, _ in before[adapter]}
    }


def homes(placement: Placement, name: str) -> set[str]:
    return {adapter for adapter, ways in placement.items() if name in dict(ways)}


@settings(max_examples=25, deadline=None)
@given(fleets())
def test_every_adapter_is_on_replicas_that_live(
    fleet: tuple[dict[str, float], dict[str, Replica]],
) -> None:
    demand, replicas = fleet
    placement = plan(demand, replicas, {"a0": (("gone", 0.5), ("r0", 0.5))}, EVENLY)
    assert placement.keys() == demand.keys()
    for ways in placement.values():
        names = [name for name, _ in ways]
        assert len(set(names)) == len(names)
        assert set(names) <= replicas.keys()
        assert sum(share for _, share in ways) == pytest.approx(1)
        assert all(share > 0 for _, share in ways)
    again = plan(demand, dict(reversed(replicas.items())), {"a0": (("r0", 1.0),)}, EVENLY)
    assert again == plan(dict(reversed(demand.items())), replicas, {"a0": (("r0", 1.0),)}, EVENLY)


@settings(max_examples=25, deadline=None)
@given(fleets())
def test_work_is_even_where_moves_are_free(
    fleet: tuple[dict[str, float], dict[str, Replica]],
) -> None:
    demand, replicas = fleet
    placement: Placement = {}
    for _ in range(3):
        placement = plan(demand, replicas, placement, EVENLY)
    if sum(demand.values()) > 0:
        assert most_over_mean(placement, demand, len(replicas)) < 1.06


@settings(max_examples=25, deadline=None)
@given(fleets(), st.data())
def test_a_plan_costs_no_more_than_it_may(
    fleet: tuple[dict[str, float], dict[str, Replica]], data: st.DataObject
) -> None:
    demand, replicas = fleet
    before = plan(demand, replicas, {}, EVENLY)
    there = {name: Replica(r.slots, frozenset(homes(before, name))) for name, r in replicas.items()}
    changed = {adapter: data.draw(WORK) for adapter in demand}
    moves = data.draw(st.integers(0, 5))
    now = plan(changed, there, before, Rules(0.05, moves))
    assert len(came(before, now)) <= moves


def test_a_plan_is_kept_while_demand_is_about_the_same() -> None:
    demand = zipf(64)
    replicas = {f"r{i}": Replica(16) for i in range(3)}
    before = plan(demand, replicas, {}, EVENLY)
    wobbled = {name: work * (1.01 if int(name[1:]) % 2 else 0.99) for name, work in demand.items()}
    assert plan(wobbled, replicas, before, EVENLY) == before


def test_slots_are_kept_to_where_they_are_enough() -> None:
    demand = zipf(48)
    replicas = {f"r{i}": Replica(16) for i in range(3)}
    placement = plan(demand, replicas, {}, Rules(0.1))
    for name in replicas:
        assert len(homes(placement, name)) <= 16
    assert most_over_mean(placement, demand, 3) < 1.1


def test_what_does_not_fit_shares_few_replicas() -> None:
    demand = zipf(64)
    replicas = {f"r{i}": Replica(16) for i in range(3)}
    placement = plan(demand, replicas, {}, Rules(0.05))
    assert sorted(len(homes(placement, name)) for name in replicas) == [16, 16, 32]
    assert most_over_mean(placement, demand, 3) < 1.06


def test_a_hot_adapter_is_on_as_many_replicas_as_it_needs() -> None:
    demand = zipf(1000) | {"hot": sum(zipf(1000).values())}  # half of all work
    placement = plan(demand, {f"r{i}": Replica(200) for i in range(8)}, {}, Rules())
    assert [share for _, share in placement["hot"]] == [0.25] * 4
    assert len(placement["a00900"]) == 1


def test_a_replica_that_is_gone_moves_its_adapters_alone() -> None:
    demand = zipf(200)
    replicas = {f"r{i}": Replica(64) for i in range(4)}
    before = plan(demand, replicas, {}, EVENLY)
    del replicas["r2"]
    now = plan(demand, _residing(before, replicas), before, Rules(0.05, moves=0))
    assert {adapter for adapter, _ in came(before, now)} <= homes(before, "r2")
    assert most_over_mean(now, demand, 3) < 1.06


def test_a_new_replica_gets_its_share_little_by_little() -> None:
    demand = zipf(200)
    replicas = {f"r{i}": Replica(64) for i in range(4)}
    placement = plan(demand, replicas, {}, EVENLY)
    replicas["new"] = Replica(64)
    shares = []
    for _ in range(20):
        before = placement
        placement = plan(demand, _residing(before, replicas), before, Rules(0.05, moves=2))
        assert len(came(before, placement)) <= 2
        shares.append(loads(placement, demand).get("new", 0) * 5 / sum(demand.values()))
    assert len(homes(placement, "new")) <= 80
    assert shares == sorted(shares)
    assert shares[-1] > 0.85


def _residing(placement: Placement, replicas: Mapping[str, Replica]) -> dict[str, Replica]:
    return {
        name: Replica(replica.slots, frozenset(homes(placement, name)))
        for name, replica in replicas.items()
    }


def test_replicas_come_and_go() -> None:
    draw = random.Random(3)
    demand = zipf(20) | {"hot": 4.0}
    replicas = {f"r{i}": Replica(8) for i in range(4)}
    placement: Placement = {}
    for i in range(300):
        if len(replicas) > 1 and draw.random() < 0.5:
            del replicas[draw.choice(sorted(replicas))]
        else:
            replicas[f"n{i}"] = Replica(8)
        demand = {name: work * draw.uniform(0.5, 2) for name, work in demand.items()}
        rules = Rules(draw.choice([0.0, 0.03]), draw.choice([0, 2, 1000]))
        placement = plan(demand, _residing(placement, replicas), placement, rules)
        for ways in placement.values():
            assert sum(share for _, share in ways) == pytest.approx(1)
            assert all(share > 0 and name in replicas for name, share in ways)


def test_a_share_of_nothing_is_none() -> None:
    replicas = {"r0": Replica(4), "r1": Replica(4)}
    before = {"a": (("gone", 1.0), ("r0", 0.0))}
    assert plan({"a": 1.0, "b": 1.0}, replicas, before, Rules())["a"] == (("r0", 1.0),)


def test_an_adapter_goes_where_it_is_loaded() -> None:
    replicas = {"r0": Replica(4), "r1": Replica(4, frozenset({"a"})), "r2": Replica(4)}
    demand = {"a": 1.0, "b": 1.0, "c": 1.0}
    assert plan(demand, replicas, {}, Rules())["a"] == (("r1", 1.0),)


def test_ten_thousand_adapters() -> None:
    demand = zipf(10_000)
    replicas = {f"r{i:02}": Replica(16) for i in range(64)}
    placement = plan(demand, replicas, {}, Rules())
    assert most_over_mean(placement, demand, 64) < 1.06
    assert sum(len(homes(placement, name)) == 16 for name in replicas) >= 30
    assert plan(demand, replicas, placement, Rules(moves=50)) == placement


def test_nothing_to_place() -> None:
    assert plan({}, {"r0": Replica(1)}, {}, Rules()) == {}
    assert plan({"a": 1.0}, {}, {}, Rules()) == {}
    assert plan({"a": 0.0}, {"r0": Replica(0)}, {}, Rules()) == {"a": (("r0", 1.0),)}
