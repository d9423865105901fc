"""Writes a table of docs/results/cluster.md from what run.py or two_servers.py measured under the
labels "before" and "after", or the tables of release.py; their place is named as the file.

    python deploy/test/table.py benchmarks/results/cluster.json docs/results/cluster.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from scenarios.table import tables

LABELS = ("before", "after")
ORDER = ("rollout", "deletion", "SIGKILL", "SIGTERM", "HTTP", "scale", "broken")


def main() -> None:
    file, page = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads(file.read_text())
    place = re.compile(rf"(<!-- table {file.stem} -->\n).*?(<!-- end -->)", re.DOTALL)
    text, found = place.subn(lambda old: old[1] + table(results) + "\n" + old[2], page.read_text())
    if not found:
        raise SystemExit(f"{page} has no place for the table")
    page.write_text(text)


def table(results: dict[str, Any]) -> str:
    if "scenarios" in results:
        return tables(results["scenarios"]["rows"])
    rows: dict[str, dict[str, str]] = {}
    for label in LABELS:
        for row in results.get(label, {"rows": []})["rows"]:
            rows.setdefault(row["measure"], {})[label] = cell(row)
    lines = [f"| | {' | '.join(LABELS)} |", "| --- " * (len(LABELS) + 1) + "|"]
    for measure in sorted(rows, key=order):
        lines.append(f"| {measure} | {' | '.join(rows[measure].get(one, '') for one in LABELS)} |")
    return "\n".join(lines)


def order(measure: str) -> int:
    """Rows in this order, those of no name here last; equal ones stay as they were measured."""
    return next((i for i, start in enumerate(ORDER) if measure.startswith(start)), len(ORDER))


def cell(row: dict[str, Any]) -> str:
    if "value" in row:
        value = row["value"]
        text = value if len(value) < 160 else value[:157] + "…"
    else:
        bad = [f"{count} {name}" for name, count in row["by_status"].items() if name != "OK"]
        text = f"{row['failed']} of {row['calls']}" + (f" ({', '.join(bad)})" if bad else "")
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
