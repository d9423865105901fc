"""32 streams of 32 adapters over gRPC while routers and Prometheus scrape their pages, or nobody does.

    python -m benchmarks.scrapes --rounds 15

A round is all streams from their start to their end. All ways to scrape are gone through in each
turn, every other turn backwards, and compared with the round of the same turn without scrapes. The
server is a process of its own; this one calls, and scrapes with bytes of a socket.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.common.paths import RESULTS
from benchmarks.common.report import machine, percentiles, save
from benchmarks.compare.front_clients import GrpcClient
from benchmarks.compare.fronts import Round, Server, measure
from benchmarks.compare.peers.loramux_grpc import free_port

from .scraper import Scrapes, Seen, scraping

RESULT = RESULTS / "scrapes.json"
_ROUTER = "/metrics/router"
_WAYS: Mapping[str, Scrapes | None] = {
    "none": None,
    "router page, 20/s": Scrapes(_ROUTER, 20, 1, "metrics"),
    "router page, 60/s": Scrapes(_ROUTER, 20, 3, "metrics"),
    "router page over the HTTP port, 60/s": Scrapes(_ROUTER, 20, 3, "http"),
    "/metrics, every 15 s": Scrapes("/metrics", 1 / 15, 1, "metrics"),
    "/metrics, 20/s": Scrapes("/metrics", 20, 1, "metrics"),
}
"""Ways to scrape; a picker asks 20 times a second, and three of them 60."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scrapes", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=128, help="of each stream's answer")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    metrics_port = free_port()
    rounds: dict[str, list[tuple[Round, Seen]]] = {name: [] for name in _WAYS}
    with Server(metrics_port=metrics_port) as server:
        ports = server.ports | {"metrics": metrics_port}
        client = GrpcClient(ports["grpc"])
        measure(server, client, 8)
        for turn in range(args.rounds):
            for name in list(_WAYS)[:: -1 if turn % 2 else 1]:
                way = _WAYS[name]
                with scraping(way, ports[way.port] if way else 0) as seen:
                    rounds[name].append((measure(server, client, args.tokens), seen))
    result = summary(rounds)
    show(result)
    about = {"machine": machine(), "rounds": args.rounds, "tokens": args.tokens}
    save(about | {"ways": result}, args.out)
    return 0


def summary(rounds: Mapping[str, list[tuple[Round, Seen]]]) -> dict[str, Any]:
    """Medians over the rounds, and of the ratios to the round without scrapes of the same turn."""
    without = [one for one, _ in rounds["none"]]
    return {
        name: {
            "tokens_per_s": median(one.tokens_per_s for one, _ in ran),
            "of_none": _spread(
                [o.tokens_per_s / n.tokens_per_s for (o, _), n in zip(ran, without, strict=True)]
            ),
            "server_cpu_s": median(one.server_cpu_s for one, _ in ran),
            "scrapes": sum(len(seen.seconds) for _, seen in ran),
            "scrape_ms": _scrape_ms([s for _, seen in ran for s in seen.seconds]),
            "page_bytes": max(seen.bytes for _, seen in ran),
        }
        for name, ran in rounds.items()
    }


def _spread(ratios: list[float]) -> dict[str, Any]:
    """Median, quartiles, and all of them."""
    first, middle, third = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"median": middle, "quartiles": [first, third], "of_turns": ratios}


def _scrape_ms(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    at = percentiles(seconds)
    return {"p50": at[49] * 1000, "p99": at[98] * 1000}


def show(result: Mapping[str, Any]) -> None:
    for name, way in result.items():
        low, high = way["of_none"]["quartiles"]
        print(
            f"{name}: {way['tokens_per_s']:.1f} tokens/s, {way['of_none']['median']:.3f} of none "
            f"({low:.3f} to {high:.3f}), server {way['server_cpu_s']:.2f} s of a core, "
            f"{way['scrapes']} scrapes of {way['page_bytes']} bytes, "
            + ", ".join(f"{at} {ms:.1f} ms" for at, ms in way["scrape_ms"].items())
        )


if __name__ == "__main__":
    sys.exit(main())
