"""The measured fleet's parts that need no server: who is popular, what a policy changes, sums."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.fleet import envoy
from benchmarks.fleet.figures import figures
from benchmarks.fleet.loads import CELLS, closed_of, popularity_classes
from benchmarks.fleet.measure import summary
from benchmarks.fleet.page import cell_table
from benchmarks.fleet.policies import POLICIES
from benchmarks.fleet.replicas import Counts, Replica
from server.bench.call import Call

NOBODY: Any = None
PORTS = {"grpc": 1, "http": 2, "metrics": 3, "admin": 4}
REPLICAS = [Replica(10 + i, 20 + i, 30 + i, NOBODY) for i in range(3)]


def test_classes_by_popularity() -> None:
    zipf, split = CELLS[0], next(cell for cell in CELLS if cell.popularity == "split")
    assert (
        list(popularity_classes(split.weights).values())
        == ["hot"] * 5 + ["warm"] * 5 + ["cold"] * 5
    )
    classes = popularity_classes(zipf.weights)
    hot = sum(weight for name, weight in zipf.weights.items() if classes[name] == "hot")
    assert len(classes) == 64
    assert 0.5 <= hot < 0.6


def test_open_loops_stand_behind_the_closed_one_of_their_fleet() -> None:
    for cell in CELLS:
        if cell.open_loop:
            closed = closed_of(cell, CELLS)
            assert closed is not None
            assert CELLS.index(closed) < CELLS.index(cell)


@pytest.mark.parametrize("policy", [p for p in POLICIES if not p.placement], ids=lambda p: p.name)
def test_a_policy_changes_the_policy_alone(policy: Any) -> None:
    config = envoy.configured(policy, REPLICAS, PORTS, None, seed=7)
    chart = envoy.configured(POLICIES[-1], REPLICAS, PORTS, None, seed=7)
    (cluster, other) = (
        next(c for c in one["static_resources"]["clusters"] if c["name"] == "adapters_grpc")
        for one in (config, chart)
    )
    [extension] = cluster.pop("load_balancing_policy")["policies"]
    other.pop("load_balancing_policy")
    assert policy.kind[0] in extension["typed_extension_config"]["typed_config"]["@type"]
    assert config == chart


def test_envoy_knows_the_servers_and_hashes_keys_of_their_own() -> None:
    config = envoy.configured(POLICIES[2], REPLICAS, PORTS, None, seed=7)
    cluster = next(
        c for c in config["static_resources"]["clusters"] if c["name"] == "adapters_grpc"
    )
    [group] = cluster["load_assignment"]["endpoints"]
    found = [
        (
            one["endpoint"]["address"]["socket_address"]["port_value"],
            one["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"],
        )
        for one in group["lb_endpoints"]
    ]
    assert found == [(10, "7-0"), (11, "7-1"), (12, "7-2")]
    assert "transport_socket" not in cluster


def turn(loads: float, requests: list[float]) -> dict[str, Any]:
    cell = CELLS[0]
    calls = [Call(name, 1.0, 1.0, ended=2.0) for name in list(cell.weights)[:4]]
    for call in calls[:3]:
        call.took(2, 1.5)
    calls[3].fail("UNAVAILABLE", "gone")
    counted = [Counts(n, 10 * n, 2 * n, loads if i == 0 else 0) for i, n in enumerate(requests)]
    return {"rate": None} | summary(cell, calls, 2.0, counted)


def test_sums_over_turns() -> None:
    found = figures([turn(1, [2, 1, 1]), turn(3, [1, 1, 2])])
    assert (found["requests"], found["failed"]) == (8, 2)
    assert found["loads_per_1000"] == 500
    assert found["loads_per_1000_of_turns"] == [250, 750]
    assert found["hit_rate"] == 0.5
    assert found["balance_requests"] == found["balance_tokens"] == 1.5
    assert found["ttft_ms"]["all"] == found["ttft_ms"]["hot"] == [500, 500]
    assert found["ttft_ms"]["cold"] == []
    assert found["calls_per_s"] == 2
    row = cell_table({"hash": found}).splitlines()[-1]
    assert row.startswith(
        "| hash | 500 (250 to 750) | 0.50 | 1.50, 1.50 | 500, 500 | 500, 500 | – | – |"
    )
