"""Writes what picker.py measured into the places for its tables in a page.

python deploy/test/picker_table.py benchmarks/results/picker.json docs/guide/routing.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import mean
from typing import Any

KINDS = {
    "unary": "gRPC",
    "stream": "gRPC, stream",
    "http": "HTTP",
    "http-stream": "HTTP, stream",
}


def main() -> None:
    results, page = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    text = page.read_text()
    for name, make in {"holder": holder, "loads": loads}.items():
        place = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = place.sub(lambda old: old[1] + make(results[name]) + old[2], text)  # noqa: B023
    page.write_text(text)


def holder(rows: list[dict[str, Any]]) -> str:
    """How many calls came to the server that holds their adapter."""
    routers = list(dict.fromkeys(row["router"] for row in rows))
    cells = {(row["router"], row["kind"]): f"{row['reached']} of {row['calls']}" for row in rows}
    body = [[router, *(cells.get((router, kind), "–") for kind in KINDS)] for router in routers]
    return lines(["", *KINDS.values()], body)


def loads(rows: list[dict[str, Any]]) -> str:
    """Loads of 1,000 calls, and the share of the server with most calls; of all runs together."""
    body = []
    for key in dict.fromkeys((row["adapters"], row["slots"], row["router"]) for row in rows):
        runs = [row for row in rows if (row["adapters"], row["slots"], row["router"]) == key]
        calls = sum(run["calls"] for run in runs)
        per_thousand = 1000 * sum(run["loads"] for run in runs) / calls
        most = mean(run["most_of_one_server"] for run in runs)
        failed = sum(sum(run["failed"].values()) for run in runs)
        body.append([*map(str, key), f"{per_thousand:.0f}", f"{most:.2f}", f"{failed} of {calls}"])
    heads = [
        "adapters",
        "slots of a server",
        "router",
        "loads of 1,000 calls",
        "most / mean calls of a server",
        "failed",
    ]
    return lines(heads, body)


def lines(heads: list[str], body: list[list[str]]) -> str:
    rule = "| --- " * len(heads) + "|"
    return "".join(
        f"{line}\n" for line in [row_of(heads), rule, *(row_of(cells) for cells in body)]
    )


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
