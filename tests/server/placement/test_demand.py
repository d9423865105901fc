"""Demand from counters that grow, begin anew, come and go."""

from __future__ import annotations

import pytest

from server.placement.demand import Demand


def test_what_is_long_ago_counts_less() -> None:
    demand = Demand(half_life_s=10)
    demand.count({"r": {}}, 0)
    demand.count({"r": {"a": 100.0}}, 10)
    found = demand.count({"r": {"a": 100.0, "b": 100.0}}, 20)
    assert found == pytest.approx({"a": 25.0, "b": 100.0})


def test_replicas_are_added_up_and_counters_begin_anew() -> None:
    demand = Demand(half_life_s=1e9)
    demand.count({"r": {"a": 0.0}, "s": {"a": 0.0}}, 0)
    demand.count({"r": {"a": 10.0}, "s": {"a": 5.0}}, 1)
    found = demand.count({"r": {"a": 3.0}, "s": {"a": 5.0}}, 1)  # r was restarted
    assert found == pytest.approx({"a": 18.0})


def test_a_replica_that_comes_brings_no_past() -> None:
    demand = Demand(half_life_s=1e9)
    demand.count({"r": {"a": 0.0}}, 0)
    demand.count({"r": {"a": 10.0}}, 1)
    assert demand.count({"r": {"a": 10.0}, "new": {"b": 1e6}}, 1) == pytest.approx({"a": 10.0})
    found = demand.count({"r": {"a": 10.0}, "new": {"b": 1e6 + 5}}, 1)
    assert found == pytest.approx({"a": 10.0, "b": 5.0})


def test_the_first_counters_tell_how_adapters_compare() -> None:
    demand = Demand(half_life_s=100)
    assert demand.count({"r": {"a": 3e6, "b": 1e6}}, 5) == {"a": 3e6, "b": 1e6}
    assert demand.count({"r": {"a": 3e6, "b": 1e6}}, 5) == {"a": 3e6, "b": 1e6}  # nothing new
    found = demand.count({"r": {"a": 3e6, "b": 1e6, "c": 10.0}}, 10)
    assert found == pytest.approx({"a": 75.0, "b": 25.0, "c": 10.0})


def test_what_nobody_asks_for_is_forgotten() -> None:
    demand = Demand(half_life_s=1)
    demand.count({"r": {}}, 0)
    demand.count({"r": {"a": 1.0}}, 1)
    assert demand.count({"r": {"a": 1.0, "b": 1e3}}, 40).keys() == {"b"}
    assert not demand.count({"r": {"a": 1.0, "b": 1e3}}, 45)
