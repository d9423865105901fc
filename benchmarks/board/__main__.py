"""Pictures of the chart's board with data of three servers under a mixed load.

    python -m benchmarks.board --minutes 8

One server is drained and started anew, one gets more than its queue holds, an adapter that is not
there is declared, one server is killed. A real Prometheus (Debian's package) scrapes them;
matplotlib draws what it answers to the board's queries.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common.paths import ROOT
from benchmarks.compare.peers.loramux_grpc import free_port

from .draw import draw
from .pods import ADAPTERS, Pod, declare, make_models
from .prometheus import Window, scraping

PODS = {"loramux-7c9f-a": 4, "loramux-7c9f-b": 3, "loramux-7c9f-c": 2}
"""Callers of each."""
_RESTART_S = 3


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.board", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="a folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder)
        pods = [Pod(pod, folder) for pod in PODS]
        try:
            for pod in pods:
                pod.wait()
            targets = {pod.name: pod.metrics for pod in pods}
            with scraping(folder, free_port(), targets) as source:
                begin = time.time()
                _run(pods, args.minutes * 60, folder)
                for path in draw(source, Window(begin + 10, time.time() - 1), args.out):
                    print(path)
        finally:
            for pod in pods:
                pod.quiet()
                pod.stop(signal.SIGKILL)
    return 0


def _run(pods: list[Pod], seconds: float, folder: Path) -> None:
    first, second, third = pods
    begin = time.monotonic()
    for pod in pods:
        pod.usual(seconds, PODS[pod.name])

    def again(pod: Pod) -> None:
        pod.start()
        pod.wait()
        pod.usual(seconds - (time.monotonic() - begin), PODS[pod.name])

    def drain() -> None:
        third.quiet()
        third.call(seconds / 20, "-c", "8", "--max-new-tokens", "400", "--ignore-eos")
        time.sleep(_RESTART_S)
        third.stop()
        third.quiet()
        again(third)

    def kill() -> None:
        second.stop(signal.SIGKILL)
        second.quiet()
        time.sleep(_RESTART_S)
        again(second)

    def flood() -> None:
        first.call(seconds / 12, "-c", "80", "--all-adapters", "--max-new-tokens", "48")

    events: list[tuple[float, Callable[[], None]]] = [
        (0.25, drain),
        (0.5, flood),
        (0.65, lambda: declare(folder, [*ADAPTERS, "that-is-not-there"])),
        (0.75, lambda: declare(folder, ADAPTERS)),
        (0.8, kill),
    ]
    for share, happens in events:
        time.sleep(max(0, begin + share * seconds - time.monotonic()))
        happens()
    time.sleep(max(0, begin + seconds - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
