"""Rows, figures and problems as tables in the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from .figures import Figure
from .measure import Row


def show(rows: list[Row], derived: list[Figure], problems: list[str]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    if rows:
        console.print(_table(rows))
    if derived:
        table = Table(title="Figures")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for figure in derived:
            table.add_row(figure.name, f"{figure.value:,.2f} {figure.unit}")
        console.print(table)
    for problem in problems:
        console.print(f"[red]PROBLEM[/red] {problem}", highlight=False)


def _table(rows: list[Row]) -> Table:
    table = Table(
        caption=(
            "out tok/s: all requests at once, output tokens / wall time, median (min-max). near best: share of tokens "
            "within 0.25 logits of the float32 reference's best. lead: share before the first difference from PEFT's."
        )
    )
    table.add_column("workload")
    table.add_column("system")
    for name in (
        "out tok/s",
        "(min-max)",
        "TTFT ms",
        "decode tok/s",
        "peak RSS MiB",
        "near best",
        "lead",
    ):
        table.add_column(name, justify="right")
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1]["group"] != row["group"]
        table.add_row(
            row["workload"]["name"],
            row["system"],
            f"{row['tokens_per_s']:.1f}",
            f"{row['tokens_per_s_min']:.1f}-{row['tokens_per_s_max']:.1f}",
            _cell(row.get("ttft_s"), ".0f", 1e3),
            _cell(row.get("decode_tokens_per_s"), ".1f"),
            f"{row['peak_rss_bytes'] / 2**20:.0f}",
            _cell(row.get("near_best"), ".3f"),
            _cell(row.get("leading_equal"), ".2f"),
            end_section=last,
        )
    return table


def _cell(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)
