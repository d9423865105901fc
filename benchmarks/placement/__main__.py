"""What plans and tables cost, by how many adapters are in them: the planner's CPU, and Envoy's.

    python -m benchmarks.placement [--envoy PATH]

64 replicas of 16 slots are planned for, demand is Zipf's. Envoy is the chart's, with one thread for
calls, which end in a stand-in on this machine: its own CPU alone is counted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from pathlib import Path

from benchmarks.common.paths import ROOT
from benchmarks.common.report import machine
from benchmarks.common.tables import fill, table
from benchmarks.fleet.envoy import envoy_program
from server.placement.board import Replica
from server.placement.placer import Placer, Published
from server.placement.plan import Placement, Rules, plan
from server.placement.settings import Settings
from server.placement.table import response
from server.placement.targets import Address

from .envoy import Envoy, running

PAGE = ROOT / "docs/guide/placement.md"
SIZES = (100, 1_000, 10_000)
_CHANGES = 5
_CALLS = 2_000
_ADDRESSES = {f"10.0.0.{i}:9464": Address(f"10.0.0.{i}", 9464) for i in range(64)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument(
        "--envoy", type=Path, help="its program; installed below .bench if left out"
    )
    program = envoy_program(parser.parse_args().envoy)
    rows = [_row(program, size) for size in SIZES]
    head = ("adapters", "a plan", "the table", "Envoy: a change", "Envoy's memory", "Envoy: a call")
    about = machine()
    foot = f"\nCPU of {about['cpu']}, {about['date']}.\n"
    fill(PAGE, {"placement": table(head, rows) + foot})


def _row(program: Path, size: int) -> list[str]:
    demand = {f"adapter-{i:05}": 1 / (i + 1) for i in range(size)}
    replicas = {name: Replica(16) for name in _ADDRESSES}
    placement = plan(demand, replicas, {}, Rules())
    began = time.process_time()
    plan(demand, replicas, placement, Rules(moves=50))
    planned_s = time.process_time() - began
    made = response(placement, _ADDRESSES, ["loramux.placement.grpc"])
    megabytes = len(json.dumps(made, separators=(",", ":"))) / 1e6
    placer = Placer(Settings([]))
    with running(program, placer) as envoy:
        change_s = _change(envoy, placer, placement)
        call_s = _calls(envoy, list(demand))
        memory = envoy.resident_mib()
    return [
        f"{size:,}",
        f"{planned_s * 1e3:.0f} ms",
        f"{megabytes:.1f} MB",
        f"{change_s * 1e3:.0f} ms",
        f"{memory:.0f} MiB",
        f"{call_s * 1e6:.0f} µs",
    ]


def _change(envoy: Envoy, placer: Placer, placement: Placement) -> float:
    """Publish some placements, and give Envoy's CPU seconds for one, on both listeners."""
    began = envoy.cpu_s()
    for i in range(_CHANGES):
        placer.published = Published(
            {**placement, f"new-{i}": placement["adapter-00000"]}, _ADDRESSES
        )
        time.sleep(3)
    return (envoy.cpu_s() - began) / _CHANGES


def _calls(envoy: Envoy, adapters: list[str]) -> float:
    """Give Envoy's CPU seconds for a call."""
    connection = http.client.HTTPConnection("127.0.0.1", envoy.http)
    began = envoy.cpu_s()
    for i in range(_CALLS):
        body = json.dumps({"model": adapters[i % len(adapters)]})
        try:
            connection.request(
                "POST", "/v1/completions", body, {"content-type": "application/json"}
            )
            answer = connection.getresponse()
        except http.client.RemoteDisconnected:  # at the age of a connection
            connection.close()
            continue
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"Envoy: {answer.status}")
    return (envoy.cpu_s() - began) / _CALLS


if __name__ == "__main__":
    main()
