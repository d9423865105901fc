"""Tries the chart's router and picker before three servers: whether calls reach the one that holds their adapter,
and what each way of routing costs in loads of adapters.

    python deploy/test/picker.py --image loramux:0.1.0 --out picker.json
    python deploy/test/picker.py --image loramux:0.1.0 loads --routers "hash 200" picker   # some, of these routers

Needs Python with PyYAML, kubectl, helm, openssl, a KUBECONFIG that may make a namespace, and for the picker the
InferencePool CRD. The images must be pullable or on the nodes.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Cluster, name
from routed import ROUTERS, SERVERS, Routed
from run import credentials, server_version

CRD = "inferencepools.inference.networking.k8s.io"
KINDS = ("unary", "stream", "http", "http-stream")
COUNTS = ("calls", "failed", "reached", "loads")
WARM, AT_ONCE = 400, 24
HELD = 4
"""Slots of a server where each holds adapters of its own."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """Adapters by how often they are called, and the slots of each server."""

    weights: tuple[float, ...]
    slots: int

    def names(self) -> list[str]:
        return names(len(self.weights))

    def draw(self, count: int, seed: int) -> list[tuple[str, str]]:
        """Calls of adapters, over both protocols, by chance."""
        chance = random.Random(seed)
        kinds = chance.choices(KINDS, k=count)
        return list(zip(chance.choices(self.names(), self.weights, k=count), kinds, strict=True))


WORKLOADS = {
    "zipf": Workload(tuple(1 / place for place in range(1, 65)), 16),
    # That of the picker's own tests; with fewer slots than adapters, as there all would be everywhere.
    "split": Workload((0.12,) * 5 + (0.06,) * 5 + (0.02,) * 5, 6),
}


def main() -> None:
    args = arguments()
    cluster = Cluster(args.namespace)
    crd = cluster.run("get", "crd", CRD, "--ignore-not-found")
    if not crd and any("picker" in ROUTERS[router] for router in args.routers):
        raise SystemExit(f"the cluster has no {CRD}: apply that project's manifests.yaml first")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": args.namespace}})
    try:
        rows = measure(cluster, args)
    finally:
        if not args.keep:
            cluster.run("delete", "namespace", args.namespace, check=False)
    if args.out:
        about = {"kubernetes": server_version(cluster), "picker": args.picker_image.split(":")[-1]}
        args.out.write_text(json.dumps(about | rows, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("what", nargs="*", help="holder, loads; default: both")
    parser.add_argument("--image", default="loramux:0.1.0", help="the server's")
    parser.add_argument("--picker-image", help="default: the chart's")
    parser.add_argument("--envoy-image", help="default: the chart's")
    parser.add_argument("--namespace", default="loramux-picker-test", help="deleted at the end")
    parser.add_argument("--memory", default="1Gi", help="limit of each server")
    parser.add_argument(
        "--routers", nargs="+", default=list(ROUTERS), choices=ROUTERS, metavar="ROUTER"
    )
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--calls", type=int, default=2000, help="calls of each run of loads")
    parser.add_argument("--rounds", type=int, default=3, help="runs of loads, routers in turn")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--keep", action="store_true", help="leave the namespace")
    return parser.parse_args()


def measure(cluster: Cluster, args: argparse.Namespace) -> dict[str, list[Row]]:
    authority, token = credentials(cluster, args.image)
    images = {"server": args.image, "envoy": args.envoy_image, "picker": args.picker_image}
    routed = Routed(cluster, images, authority, token, args.memory)
    rows: dict[str, list[Row]] = {}
    what = args.what or ["holder", "loads"]
    if "holder" in what:
        routed.deploy(names(SERVERS * HELD), HELD, "picker")
        rows["holder"] = holder(routed, "picker")
    if "loads" in what:
        rows["loads"] = [
            row for workload in args.workloads for row in compared(routed, workload, args)
        ]
    routed.remove()
    return rows


def compared(routed: Routed, workload: str, args: argparse.Namespace) -> list[Row]:
    """Each router in turn, beginning with another one in each round: it finds what one before it left in the slots."""
    asked = WORKLOADS[workload]
    routed.deploy(asked.names(), asked.slots, args.routers[0])
    rows = []
    for turn in range(args.rounds):
        first = turn % len(args.routers)
        for router in args.routers[first:] + args.routers[:first]:
            row = {"workload": workload, **loads(routed, router, asked, args.calls, turn)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def names(count: int) -> list[str]:
    return [f"a{i:02}" for i in range(count)]


def holder(routed: Routed, router: str) -> list[Row]:
    """Give each server adapters of its own, by turns others, and count where calls arrive."""
    routed.route(router)
    adapters = names(SERVERS * HELD)
    shares = [adapters[i * HELD : (i + 1) * HELD] for i in range(SERVERS)]
    rows = {kind: Row(router=router, kind=kind, **dict.fromkeys(COUNTS, 0)) for kind in KINDS}
    for turn in range(SERVERS):
        pods = [name(pod) for pod in routed.pods()]
        placed = {pod: shares[(i + turn) % SERVERS] for i, pod in enumerate(pods)}
        routed.place(placed)
        for kind, row in rows.items():
            before = routed.count()
            ends = routed.load([(one, kind) for one in adapters * 5], 1)["ends"]
            found = routed.count().since(before)
            row["calls"] += ends.pop("OK", 0)
            row["failed"] += sum(ends.values())
            row["reached"] += sum(n for (pod, one), n in found.calls.items() if one in placed[pod])
            row["loads"] += sum(found.loads.values())
    for row in rows.values():
        print(json.dumps(row), flush=True)
    return list(rows.values())


def loads(routed: Routed, router: str, workload: Workload, count: int, turn: int) -> Row:
    """Calls of adapters of different popularity over both protocols, some at once."""
    routed.route(router)
    routed.load(workload.draw(WARM, turn + 100), AT_ONCE)
    before = routed.count()
    done = routed.load(workload.draw(count, turn), AT_ONCE)
    found = routed.count().since(before)
    share = found.by_pod().values()
    late = done["latencies"] or [0.0]
    return {
        "router": router,
        "adapters": len(workload.weights),
        "slots": workload.slots,
        "calls": count,
        "failed": {end: n for end, n in done["ends"].items() if end != "OK"},
        "loads": sum(found.loads.values()),
        "most_of_one_server": round(max(share) / (sum(share) / SERVERS), 2),
        "p50_s": round(late[len(late) // 2], 4),
        "p99_s": round(late[len(late) * 99 // 100], 4),
        "calls_per_s": round(len(late) / done["seconds"], 1),
        "texts_of_one_adapter": max(map(len, done["texts"].values()), default=0),
    }


if __name__ == "__main__":
    main()
