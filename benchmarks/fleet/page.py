"""The page's tables, and what a terminal shows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.common.paths import RESULTS, ROOT
from benchmarks.common.report import told
from benchmarks.common.tables import fill, table

from .loads import CLASSES

RESULT = RESULTS / "fleet.json"
PAGE = ROOT / "docs/results/fleet.md"
PICTURE = ROOT / "docs/results/fleet.png"
_HEAD = (
    "policy",
    "loads per 1,000",
    "hit",
    "highest / mean requests, tokens",
    "TTFT p50, p99 ms",
    *CLASSES,
    "calls/s",
    "tokens/s",
    "failed",
)


def write(report: Mapping[str, Any]) -> None:
    """Write the page's tables."""
    foot = f"\n{report['rounds']} rounds, {told(report['machine'])}.\n"
    fill(PAGE, {name: cell_table(cell) + foot for name, cell in report["cells"].items()})


def cell_table(cell: Mapping[str, Any]) -> str:
    """One load's table, a row for each policy."""
    return table(_HEAD, [_row(name, found) for name, found in cell.items()])


def show(cells: Mapping[str, Any]) -> None:
    for name, cell in cells.items():
        print(f"\n{name}\n{cell_table(cell)}", file=sys.stderr, flush=True)


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    per_turn = found["loads_per_1000_of_turns"]
    return [
        name,
        f"{found['loads_per_1000']:.0f} ({min(per_turn):.0f} to {max(per_turn):.0f})",
        f"{found['hit_rate']:.2f}",
        f"{found['balance_requests']:.2f}, {found['balance_tokens']:.2f}",
        *(_times(found["ttft_ms"][kind]) for kind in ("all", *CLASSES)),
        f"{found['calls_per_s']:.0f}",
        f"{found['tokens_per_s']:.0f}",
        str(found["failed"]),
    ]


def _times(p50_p99: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in p50_p99) or "–"
