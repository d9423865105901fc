"""Fleets simulated: calibrated on a real server, held to the measured fleet, then read at scale.

    python -m benchmarks.scale calibrate    # costs of a real server; nothing else may run; 6 minutes
    python -m benchmarks.scale compare      # beside what benchmarks.fleet measured; 3 minutes
    python -m benchmarks.scale studies      # 64 replicas, 10,000 adapters; about 13 minutes

Each writes its result below benchmarks/results, and its tables and pictures of
docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from benchmarks.common.host import cores
from benchmarks.common.report import machine, save
from benchmarks.fleet.bases import BASES
from benchmarks.fleet.envoy import envoy_program
from benchmarks.fleet.page import RESULT as MEASURED

from . import page
from .against import compared
from .calibrate import calibrate, calibrate_processes
from .costs import Costs
from .policies import POLICIES
from .studies import Setup, capacity, hot, lost

_AT_SCALE = "smollm2"
_WITHOUT_WORK = "tiny"
"""A base whose steps show what the interpreter takes."""
_SEEDS = 2
_COMMON_LOAD = 0.8
"""Load of the changes, as a part of the least capacity of any policy that keeps up with half of the
best one's."""


def main() -> int:
    args = _arguments()
    structlog.configure(processors=[_dropped])  # placement tells of each plan
    _COMMANDS[args.command](args)
    page.write()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("command", choices=list(_COMMANDS))
    parser.add_argument("--envoy", type=Path, help="the program; else it is installed in .bench")
    parser.add_argument("--policies", type=re.compile, default=re.compile(""), metavar="REGEX")
    parser.add_argument("--quick", action="store_true", help="fewer requests and one seed")
    return parser.parse_args()


def _calibrate(args: argparse.Namespace) -> None:
    program = envoy_program(args.envoy)
    found = {name: calibrate(base, program) for name, base in BASES.items()}
    steps = found[_WITHOUT_WORK].steps
    of_all = calibrate_processes(BASES[_WITHOUT_WORK], program, steps)
    shared = {name: asdict(one) for name, one in of_all.items()}
    shared["interpreted"] = asdict(steps)
    costs = {name: asdict(one) | shared for name, one in found.items()}
    save({"machine": machine(), "costs": costs}, page.COSTS)


def _compare(args: argparse.Namespace) -> None:
    measured = json.loads(MEASURED.read_text())
    costs = {name: _costs(name) for name in BASES}
    save({"machine": machine(), "cells": compared(measured, costs)}, page.COMPARED)


def _studies(args: argparse.Namespace) -> None:
    setup, costs = Setup(), _costs(_AT_SCALE)
    seeds = list(range(1 if args.quick else _SEEDS))
    if args.quick:
        setup = replace(setup, replicas=16, adapters=1000, slots=32, warmup=500, requests=2000)
    names = [
        p.name for p in POLICIES if args.policies.fullmatch(p.name) or not args.policies.pattern
    ]
    with ProcessPoolExecutor(len(cores()), initializer=_quiet) as pool:
        found = _each(pool, partial(capacity, setup, costs), [(n, s) for n in names for s in seeds])
        capacities = {n: [found[n, s] for s in seeds] for n in names}
        rate = _common_rate(capacities)
        losses = _each(pool, partial(_at, lost, setup, costs, rate), [(n, 0) for n in names])
        tenants = _each(pool, partial(_at, hot, setup, costs, rate), [(n, 0) for n in names])
    report = {
        "machine": machine(),
        "setup": asdict(setup),
        "base": _AT_SCALE,
        "capacity": capacities,
        "rate": rate,
        "lost": {n: losses[n, 0] for n in names},
        "hot": {n: tenants[n, 0] for n in names},
    }
    save(report, page.SCALE.with_name("scale-quick.json") if args.quick else page.SCALE)


def _each(
    pool: ProcessPoolExecutor,
    study: Callable[[str, int], dict[str, Any]],
    of: Sequence[tuple[str, int]],
) -> dict[tuple[str, int], dict[str, Any]]:
    """Run a study for each policy and seed."""
    futures = {key: pool.submit(study, *key) for key in of}
    found = {}
    for key, future in futures.items():
        found[key] = future.result()
        print(*key, {k: v for k, v in found[key].items() if isinstance(v, float)}, flush=True)
    return found


def _at(
    study: Callable[..., dict[str, Any]],
    setup: Setup,
    costs: Costs,
    rate: float,
    policy: str,
    seed: int,
) -> dict[str, Any]:
    return study(setup, costs, policy, rate, seed)


def _common_rate(capacities: dict[str, list[dict[str, Any]]]) -> float:
    means = [sum(c["calls_per_s"] for c in found) / len(found) for found in capacities.values()]
    return _COMMON_LOAD * min(mean for mean in means if mean >= max(means) / 2)


def _costs(base: str) -> Costs:
    if not page.COSTS.exists():
        raise SystemExit("run `python -m benchmarks.scale calibrate` first")
    return Costs.of(json.loads(page.COSTS.read_text())["costs"][base])


def _quiet() -> None:
    structlog.configure(processors=[_dropped])


def _dropped(*event: object) -> Any:
    raise structlog.DropEvent


_COMMANDS = {"calibrate": _calibrate, "compare": _compare, "studies": _studies}

if __name__ == "__main__":
    sys.exit(main())
