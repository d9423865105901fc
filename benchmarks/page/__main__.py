"""Tokens/s of 32 streams with no page open, with one and with five, on a server of 1,000 adapters.

    python -m benchmarks.page --rounds 9

Server, streams and pages are processes of their own. The numbers of pages take turns, every other
round backwards; a ratio is of neighbours in one round. What one of a page's calls takes of the
server's time is measured too, while nothing else runs: it is the finer figure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common.paths import MODEL, RESULTS, ROOT
from benchmarks.common.report import machine, save
from benchmarks.common.workloads import adapter_dir
from benchmarks.compare.front_clients import FRONTS
from benchmarks.compare.fronts import WORKLOAD, Server, measure

from .visitors import Page, constant

ADAPTERS = 1000
VERSIONS = 50
"""Of those that the streams do not use: to read 1,000 takes minutes."""
PAGES = (0, 1, 5)
CALLS = 200
RESULT = RESULTS / "page.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    small = [adapter_dir(f"qv1-{i:04d}", MODEL) for i in range(VERSIONS)]
    count = ADAPTERS - WORKLOAD.num_adapters
    others = {f"other-{i:04d}": small[i % VERSIONS] for i in range(count)}
    with Server(others) as server:
        client = FRONTS["http"](server.ports["http"])
        server.wait(client)
        page = Page(server.ports["http"])
        if (found := page.open()) != ADAPTERS:
            raise SystemExit(f"{found} adapters")
        costs = {
            "status_ms": _cost_ms(server, page.look),
            "refresh_ms": _cost_ms(server, page.refresh),
        }
        measure(server, client, 8)
        rates: dict[int, list[float]] = {count: [] for count in PAGES}
        for turn in range(args.rounds):
            for count in PAGES[:: -1 if turn % 2 else 1]:
                with _open(server.ports["http"], count):
                    rates[count].append(measure(server, client, args.tokens).tokens_per_s)
    result = costs | _summary(rates, costs)
    _show(result)
    save({"machine": machine(), "rounds": args.rounds, "tokens": args.tokens} | result, args.out)
    return 0


def _cost_ms(server: Server, call: Callable[[], Any]) -> float:
    """Milliseconds of a core that the server takes for a call."""
    before = server.cpu_s()
    for _ in range(CALLS):
        call()
    return 1000 * (server.cpu_s() - before) / CALLS


@contextmanager
def _open(port: int, count: int) -> Iterator[None]:
    """Pages that are open meanwhile."""
    if not count:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.page.visitors", str(port), str(count)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        if process.stdout.readline() != "open\n":
            raise SystemExit("the pages did not open")
        yield
        process.communicate()


def _summary(rates: dict[int, list[float]], costs: dict[str, float]) -> dict[str, Any]:
    a_second = costs["status_ms"] * 1000 / constant("main.js", "LOOK_MS")
    a_second += costs["refresh_ms"] * 1000 / constant("pages.js", "AGAIN_MS")
    return {
        "page_share_of_a_core": a_second / 1000,
        "tokens_per_s": {count: median(found) for count, found in rates.items()},
        "ratio_to_none": {
            count: median(one / none for one, none in zip(found, rates[0], strict=True))
            for count, found in rates.items()
        },
        "tokens_per_s_of_rounds": rates,
    }


def _show(result: dict[str, Any]) -> None:
    for count, rate in result["tokens_per_s"].items():
        ratio = result["ratio_to_none"][count]
        print(f"{count} pages: {rate:.0f} tokens/s, {ratio:.4f} of none")
    print(
        f"a look at /status {result['status_ms']:.2f} ms of a core, the adapters in view "
        f"{result['refresh_ms']:.2f} ms: a page takes {result['page_share_of_a_core']:.2%} of a core"
    )


if __name__ == "__main__":
    sys.exit(main())
