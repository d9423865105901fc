"""32 streams of 32 adapters at once over HTTP and over gRPC, of one server, in turn.

    python -m benchmarks.compare.fronts --rounds 9

The server is a process of its own, and so is this one, which only calls. Every other round goes
backwards. The same requests must give the same texts over both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.common.paths import MODEL, RESULTS, ROOT
from benchmarks.common.report import machine, save
from benchmarks.common.workloads import Workload, adapter_dir

from .front_clients import FRONTS, Client, Streams

WORKLOAD = Workload("distinct-32", 32)
RESULT = RESULTS / "fronts.json"
_START_TIMEOUT_S = 600


@dataclass(frozen=True)
class Round:
    """All streams of one round over one front."""

    tokens_per_s: float
    ttft_s: float
    """Median over the streams."""
    gap_p99_s: float
    """Between two events of a stream."""
    server_cpu_s: float
    client_cpu_s: float
    texts: list[str]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare.fronts",
        description=(__doc__ or "").partition("\n\n")[0],
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=WORKLOAD.output_len)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    with Server() as server:
        clients = {name: front(server.ports[name]) for name, front in FRONTS.items()}
        for client in clients.values():
            measure(server, client, 8)
        rounds: dict[str, list[Round]] = {name: [] for name in clients}
        for turn in range(args.rounds):
            for name in list(clients)[:: -1 if turn % 2 else 1]:
                rounds[name].append(measure(server, clients[name], args.tokens))
    result = summary(rounds)
    show(result)
    save({"machine": machine(), "rounds": args.rounds, "tokens": args.tokens} | result, args.out)
    return 0 if result["same_texts"] else 1


class Server:
    """A server with both ports. `others`: adapters beside the workload's; `settings`: flags beside,
    or in the place of, the benchmark's own."""

    def __init__(self, others: Mapping[str, Path] | None = None, **settings: object) -> None:
        self._others, self._settings = others or {}, settings

    def __enter__(self) -> Server:
        from .peers.loramux_grpc import free_port

        self.ports = {name: free_port() for name in FRONTS}
        flags: dict[str, object] = {
            "base": str(MODEL),
            "port": self.ports["grpc"],
            "http-port": self.ports["http"],
            "metrics-port": 0,
            "dtype": "bfloat16",
            "log-level": "error",
            "max-adapters": WORKLOAD.num_adapters,
            "max-running": 64,
        } | {name.replace("_", "-"): value for name, value in self._settings.items()}
        command = [sys.executable, "-m", "server", "serve", "--no-prefix-caching"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        adapters = {name: adapter_dir(name, MODEL) for name in WORKLOAD.assigned()}
        for name, directory in (adapters | self._others).items():
            command.append(f"--adapter={name}={directory}")
        self._process = subprocess.Popen(command, cwd=ROOT)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def cpu_s(self) -> float:
        """Seconds of a core that the server has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self, client: Client) -> None:
        """Wait until the port of `client` is open."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not client.is_open():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start")
            time.sleep(0.2)


def measure(server: Server, client: Client, tokens: int) -> Round:
    server.wait(client)
    prompts, names = WORKLOAD.prompts(MODEL), WORKLOAD.assigned()
    server_cpu, client_cpu = server.cpu_s(), time.process_time()
    streams: Streams = asyncio.run(client.run(prompts, names, tokens))
    client_cpu = time.process_time() - client_cpu
    texts, counts = zip(*streams.answers(), strict=True)
    if set(counts) != {tokens}:
        raise SystemExit(f"not {tokens} tokens in each stream: {counts}")
    gaps = [b - a for one in streams.times for a, b in pairwise(one)]
    return Round(
        tokens_per_s=sum(counts) / streams.wall_s,
        ttft_s=median(one[0] for one in streams.times),
        gap_p99_s=quantiles(gaps, n=100)[98],
        server_cpu_s=server.cpu_s() - server_cpu,
        client_cpu_s=client_cpu,
        texts=list(texts),
    )


def summary(rounds: dict[str, list[Round]]) -> dict[str, Any]:
    """Medians over the rounds, and of the ratios of rounds that were neighbours."""
    measures = ("tokens_per_s", "ttft_s", "gap_p99_s", "server_cpu_s", "client_cpu_s")
    fronts = {
        name: {measure: median(getattr(one, measure) for one in ran) for measure in measures}
        | {"tokens_per_s_of_rounds": [one.tokens_per_s for one in ran]}
        for name, ran in rounds.items()
    }
    pairs = list(zip(rounds["http"], rounds["grpc"], strict=True))
    return {
        "fronts": fronts,
        "http_over_grpc": median(h.tokens_per_s / g.tokens_per_s for h, g in pairs),
        "same_texts": all(h.texts == g.texts for h, g in pairs),
    }


def show(result: dict[str, Any]) -> None:
    for name, front in result["fronts"].items():
        print(
            f"{name}: {front['tokens_per_s']:.0f} tokens/s, TTFT {front['ttft_s'] * 1000:.0f} ms, gap p99 "
            f"{front['gap_p99_s'] * 1000:.0f} ms, server {front['server_cpu_s']:.2f} s of a core, "
            f"client {front['client_cpu_s']:.2f}"
        )
    same = "the same texts" if result["same_texts"] else "OTHER TEXTS"
    print(f"HTTP over gRPC: {result['http_over_grpc']:.3f}, {same}")


if __name__ == "__main__":
    sys.exit(main())
