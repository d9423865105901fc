"""Calls a second of one server on a tiny base, and the milliseconds of a core that a call takes.

    python -m benchmarks.calls --against ../other-checkout

The base has three layers of 64, so that what is measured is all that is not the model. Each load runs
on every checkout in turn, round after round, every other round backwards; the table has the medians.
ghz (https://ghz.sh) must be on the PATH. The checkouts must have the same Python packages.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.common.paths import RESULTS, ROOT
from benchmarks.common.report import machine, save, told
from benchmarks.common.tables import fill, table

from .loads import LOADS, Load, send
from .servers import Server, serving

PAGE = ROOT / "docs/results/calls.md"
Rounds = dict[tuple[str, int], dict[str, list[tuple[float, float]]]]
"""Calls/s and core milliseconds a call of each round, by checkout and load."""


def main() -> int:
    args = _arguments()
    if shutil.which("ghz") is None:
        raise SystemExit("ghz is not on the PATH: https://ghz.sh")
    loads = [load for load in LOADS if args.loads.search(load.name)]
    checkouts = {"here": ROOT} | ({"before": args.against.resolve()} if args.against else {})
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(path)) for name, path in checkouts.items()}
        for server in servers.values():
            for load in loads:
                send(Load(load.way, load.tokens, load.concurrency, load.calls // 8), server)
        rounds = _measured(loads, servers, args.rounds)
    found = {
        f"{name}, {concurrency} callers": {
            checkout: {"calls_per_s": median(r for r, _ in seen), "ms": median(m for _, m in seen)}
            for checkout, seen in by_checkout.items()
        }
        for (name, concurrency), by_checkout in rounds.items()
    }
    shown = _table(rounds, list(checkouts))
    print(shown)
    if len(loads) == len(LOADS):
        about = machine() | {"model": "three layers of 64"}
        save({"machine": about, "rounds": args.rounds, "loads": found}, RESULTS / "calls.json")
        fill(PAGE, {"calls": f"{shown}\n{args.rounds} rounds, {told(about)}.\n"})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.calls", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--loads", type=re.compile, default=re.compile(""), help="a pattern of some loads' names"
    )
    return parser.parse_args()


def _measured(loads: list[Load], servers: dict[str, Server], rounds: int) -> Rounds:
    found: Rounds = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for load in loads:
            for name in sorted(servers, reverse=bool(number % 2)):
                before = servers[name].core_s()
                rps = send(load, servers[name])
                ms = (servers[name].core_s() - before) * 1e3 / load.calls
                found[load.name, load.concurrency][name].append((rps, ms))
    return found


def _table(rounds: Rounds, checkouts: list[str]) -> str:
    head = ["calls", "callers"]
    for name in checkouts:
        head += [f"{name}: calls/s", f"{name}: ms of a core"]
    rows = []
    for (name, concurrency), seen in rounds.items():
        row = [name, str(concurrency)]
        for checkout in checkouts:
            row.append(f"{median(rps for rps, _ in seen[checkout]):,.0f}")
            row.append(f"{median(ms for _, ms in seen[checkout]):.2f}")
        rows.append(row)
    return table(head, rows)


if __name__ == "__main__":
    raise SystemExit(main())
