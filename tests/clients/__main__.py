"""Run every client against a server of its own, print a table; the status is 1 if anything failed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .benches import BENCHES
from .clients import CHECKS, READY, Bench, Report, run
from .server import serving

CLIENTS: dict[str, str | Bench] = {**CHECKS, **BENCHES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="clients whose names have this in them")
    wanted = parser.parse_args().only.lower()
    if not READY.exists():
        raise SystemExit("the clients are not installed: make clients")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        reports = {}
        with serving(scratch / "server.log") as url:
            for name, client in CLIENTS.items():
                if wanted in name.lower():
                    print(f"== {name}", flush=True)
                    reports[name] = run(client, url, scratch)
    _show(reports)
    return int(any(report.problems for report in reports.values()))


def _show(reports: dict[str, Report]) -> None:
    table = Table("client", "checks", "failed", "requests", "tokens", "models", "seconds")
    for name, report in reports.items():
        used = [model for model, count in report.served.requests.items() if count]
        table.add_row(
            name,
            str(len(report.findings)),
            str(len(report.problems)),
            str(sum(report.served.requests.values())),
            str(sum(report.served.tokens.values())),
            ", ".join(used),
            f"{report.seconds:.0f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    for name, report in reports.items():
        for problem in report.problems:
            console.print(f"{name}: {problem}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
