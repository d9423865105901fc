"""A load's report as tables of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .summary import PERCENTILES

_ROWS = 10
_BUSY = 0.9


def show(report: dict[str, Any], console: Console) -> None:
    """Print the figures, and then what was wrong with the run."""
    total = report["total"]
    failed = total["calls"] - total["ok"]
    console.print(
        f"{total['calls']} calls in {report['wall_s']:.2f} s, {failed} failed:"
        f" {total['calls_per_s']:.2f} calls/s, {total['tokens_per_s']:.1f} tokens/s",
        highlight=False,
    )
    if total["ok"]:
        console.print(_times(total))
    if len(report["adapters"]) > 1:
        console.print(_adapters(report["adapters"]))
    for line in remarks(report):
        # A server's own words are in it.
        plain = "".join(c if c.isprintable() else " " for c in line)
        console.print(plain, highlight=False, markup=False, soft_wrap=True)


def remarks(report: dict[str, Any]) -> Iterator[str]:
    """Say what failed, and what makes the figures other than they seem."""
    for status, count in report["total"]["statuses"].items():
        if message := report["errors"].get(status):
            yield f"{count} x {status}: {message}"
    if report["not_sent"]:
        yield f"{report['not_sent']} calls were due and not sent: there was no room until the end"
    if report["unfinished"]:
        yield f"{report['unfinished']} calls were under way when the load was cancelled"
    if (busy := report["client"]["cpu_of_one_core"]) > _BUSY:
        yield f"this program used {busy:.0%} of a core: it may be what limits these figures"


def _times(total: dict[str, Any]) -> Table:
    table = Table("ms", "mean", *(f"p{p}" for p in PERCENTILES), "max", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for key, label in (
        ("ttft_ms", "first token"),
        ("ttft_from_intended_ms", "  from when it was due"),
        ("itl_ms", "between tokens"),
        ("latency_ms", "whole call"),
        ("latency_from_intended_ms", "  from when it was due"),
    ):
        if spread := total.get(key):
            names = ("mean", *(f"p{p}" for p in PERCENTILES), "max")
            table.add_row(label, *(f"{spread[name]:.2f}" for name in names))
    return table


def _adapters(adapters: dict[str, dict[str, Any]]) -> Table:
    table = Table("adapter", "calls", "failed", "tokens/s", box=None)
    for title in ("first token", "between", "whole call"):
        table.add_column(f"{title}\nms p50/p99", no_wrap=True)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, group in list(adapters.items())[:_ROWS]:
        cells = [_cell(group[key]) for key in ("ttft_ms", "itl_ms", "latency_ms")]
        failed = group["calls"] - group["ok"]
        table.add_row(
            Text(name), str(group["calls"]), str(failed), f"{group['tokens_per_s']:.1f}", *cells
        )
    if (more := len(adapters) - _ROWS) > 0:
        table.add_row(f"and {more} more")
    return table


def _cell(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{_short(spread['p50'])}/{_short(spread['p99'])}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
