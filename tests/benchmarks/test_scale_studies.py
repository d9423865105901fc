"""What is asked of simulated fleets, on a small one, and what a page says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import page
from benchmarks.scale.costs import Costs, Process, Steps
from benchmarks.scale.studies import Run, Setup, capacity, hot, lost

FRONT = Process(wake=0.0005, call=0.001, token=0.0001)
COSTS = Costs(Steps(0.002, 0.0004, 0.0001, 0.0003), (0.02, 0.03), FRONT)
SETUP = Setup(
    replicas=3, adapters=200, slots=8, prompt_tokens=16, output_tokens=4, warmup=50, requests=300
)
RATE = 60.0
POLICY = "hash, bound 200 %"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return {
        "machine": {"cores": 2, "cpu": "a processor", "date": "2026-01-01"},
        "setup": {"replicas": 3, "adapters": 200, "objective_s": 0.5},
        "capacity": {POLICY: [capacity(SETUP, COSTS, POLICY, 0, steps=3)]},
        "lost": {POLICY: lost(SETUP, COSTS, POLICY, RATE, 0)},
        "hot": {POLICY: hot(SETUP, COSTS, POLICY, RATE, 0)},
    }


def test_capacity_is_a_rate_that_keeps_the_objective(report: dict[str, Any]) -> None:
    [found] = report["capacity"][POLICY]
    assert found["ttft_p99_ms"] <= 1e3 * SETUP.objective_s
    assert found["calls_per_s"] > 0
    needed = 3 / (found["calls_per_s"] * 86_400 / 1e6)
    assert found["replicas_per_million_a_day"] == pytest.approx(needed)


def test_a_fleet_that_does_not_keep_up_is_told_so() -> None:
    crowded = Setup(replicas=1, adapters=50, slots=8, warmup=50, requests=1000)
    assert Run(crowded, COSTS, POLICY, rate=5000, seed=0).go() is None


def test_changes_show_in_the_seconds_behind_them(report: dict[str, Any]) -> None:
    for study in ("lost", "hot"):
        found = report[study][POLICY]
        assert found["keeps_up"]
        assert len(found["second"]) == len(found["loads"]) == len(found["ttft_p99_ms"])
        assert min(found["second"]) <= 0 <= max(found["second"])
        assert sum(found["loads"]) > 0


def test_the_page_has_a_row_for_each_policy_and_pictures(
    report: dict[str, Any], tmp_path: Path
) -> None:
    tables = page.tables_of_scale(report)
    assert tables.keys() == {"capacity", "lost", "hot"}
    for text in tables.values():
        assert f"| {POLICY} | " in text
    page.draw(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "scale-capacity.png",
        "scale-lost.png",
        "scale-hot.png",
    }


def test_what_was_measured_stands_beside_what_was_simulated() -> None:
    both = {"loads_per_1000": [100, 105], "ttft_p50_ms": [20, 30], "balance": [1, 1]}
    cells = {"tiny-zipf": {"hash": both | {"calls_per_s": [200, 210]}}}
    about = {"cores": 2, "cpu": "a processor", "date": "2026-01-01"}
    tables = page.tables_of_compared({"machine": about, "cells": cells})
    assert (
        "| tiny-zipf | hash | 100 / 105 | 20.0 / 30.0 | 1.00 / 1.00 | 200 / 210 |"
        in tables["compared"]
    )
    assert "| loads, tiny | 5% | 5% | 1 of 1 |" in tables["within"]
    assert "| TTFT p50, tiny | 50% | 50% | 0 of 1 |" in tables["within"]
