"""Tries the endpoint picker of Gateway API Inference Extension before three servers: whether calls
reach the one that holds their adapter, and what that saves against round robin.

    python deploy/test/picker.py --image loramux:0.1.0 --out picker.json
    python deploy/test/picker.py --image loramux:0.1.0 holder           # loads; by default both

Needs Python with PyYAML, kubectl, openssl, a KUBECONFIG that may make a namespace, and the InferencePool CRD.
The images must be pullable or on the nodes.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import overlay
from cluster import Cluster, name
from routed import ENV, ENVOY, PICKER, ROUND_ROBIN, SERVERS, SLOTS, Routed
from run import credentials, server_version

CRD = "inferencepools.inference.networking.k8s.io"
GRPC, HTTP = ("unary", "stream"), ("http", "http-stream")
ROUTERS = {"openai": HTTP, "affinity": GRPC + HTTP, "mix": GRPC + HTTP}
"""Files of picker/, and the kinds of calls that each can route."""
COMPARED = (ROUND_ROBIN, "affinity", "mix")
COUNTS = ("calls", "failed", "reached", "loads")
WARM, AT_ONCE = 200, 12
Row = dict[str, Any]


def main() -> None:
    args = arguments()
    cluster = Cluster(args.namespace)
    if not cluster.run("get", "crd", CRD, "--ignore-not-found"):
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
    parser.add_argument("what", nargs="*", help="default: both")
    parser.add_argument("--image", default="loramux:0.1.0", help="the server's")
    parser.add_argument("--picker-image", default=f"{PICKER}:v1.5.0")
    parser.add_argument("--envoy-image", default=f"{ENVOY}:distroless-v1.40.0")
    parser.add_argument("--namespace", default="loramux-picker-test", help="deleted at the end")
    parser.add_argument("--memory", default="1Gi", help="limit of each server")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each run of loads")
    parser.add_argument("--rounds", type=int, default=3, help="runs of loads, routers in turn")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--keep", action="store_true", help="leave the namespace")
    return parser.parse_args()


def measure(cluster: Cluster, args: argparse.Namespace) -> dict[str, list[Row]]:
    authority, token = credentials(cluster, args.image)
    routed = Routed(cluster, args.picker_image, args.envoy_image, authority, token)
    target = overlay.Target(args.image, memory=args.memory, env=ENV)
    rows: dict[str, list[Row]] = {}
    if not args.what or "holder" in args.what:
        routed.deploy(target, names(SERVERS * SLOTS))
        rows["holder"] = [row for router in ROUTERS for row in holder(routed, router)]
    if not args.what or "loads" in args.what:
        rows["loads"] = []
        for count in (SERVERS * SLOTS, SERVERS * SLOTS + SLOTS):
            routed.deploy(target, names(count))
            for turn in range(args.rounds):
                first = turn % len(COMPARED)  # each finds what another one left in the slots
                for router in COMPARED[first:] + COMPARED[:first]:
                    rows["loads"].append(loads(routed, router, names(count), args.calls, turn))
    return rows


def names(count: int) -> list[str]:
    return [f"a{i:02}" for i in range(count)]


def holder(routed: Routed, router: str) -> list[Row]:
    """Give each server adapters of its own, by turns others, and count where calls arrive."""
    routed.route(router)
    adapters = names(SERVERS * SLOTS)
    shares = [adapters[i * SLOTS : (i + 1) * SLOTS] for i in range(SERVERS)]
    rows = {
        kind: Row(router=router, kind=kind, **dict.fromkeys(COUNTS, 0)) for kind in ROUTERS[router]
    }
    for turn in range(SERVERS):
        pods = [name(pod) for pod in routed.cluster.pods()]
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


def loads(routed: Routed, router: str, adapters: list[str], count: int, turn: int) -> Row:
    """Calls of adapters of different popularity (Zipf 1) over both protocols, some at once."""
    routed.route(router)
    routed.load(zipf(adapters, WARM, turn + 100), AT_ONCE)
    before = routed.count()
    done = routed.load(zipf(adapters, count, turn), AT_ONCE)
    found = routed.count().since(before)
    share = found.by_pod().values()
    late = done["latencies"]
    row = {
        "router": router,
        "adapters": len(adapters),
        "calls": count,
        "failed": {end: n for end, n in done["ends"].items() if end != "OK"},
        "loads": sum(found.loads.values()),
        "most_of_one_server": round(max(share) / (sum(share) / SERVERS), 2),
        "p50_s": round(late[len(late) // 2], 4),
        "p99_s": round(late[len(late) * 99 // 100], 4),
        "calls_per_s": round(len(late) / done["seconds"], 1),
        "texts_of_one_adapter": max(map(len, done["texts"].values())),
    }
    print(json.dumps(row), flush=True)
    return row


def zipf(adapters: list[str], count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    weights = [1 / place for place in range(1, len(adapters) + 1)]
    kinds = draw.choices(GRPC + HTTP, k=count)
    return list(zip(draw.choices(adapters, weights, k=count), kinds, strict=True))


if __name__ == "__main__":
    main()
