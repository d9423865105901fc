"""Write the table of docs/guide/bench.md from the judges' result.

python -m benchmarks.compare.judges.page
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common.paths import RESULTS, ROOT
from benchmarks.common.tables import fill, table

PAGE = ROOT / "docs/guide/bench.md"
_HEAD = ("load", "calls/s", "p50, ms", "p90, ms", "p99, ms", "TTFT p50, ms", "ITL mean, ms")


def main() -> None:
    report = json.loads((RESULTS / "judges.json").read_text())
    fill(PAGE, {"judges": judges(report)})


def judges(report: dict[str, Any]) -> str:
    """A row a load: what ghz says, or k6 of tokens, and how far the bench is from it."""
    rows = []
    for name, one in report["loads"].items():
        whole = [_cell(one, "ghz", "from_ghz", field) for field in ("rps", "p50", "p90", "p99")]
        tokens = [_cell(one, "k6", "from_k6", field) for field in ("ttft_p50", "itl_mean")]
        rows.append((_words(name, one["load"]), *whole, *tokens))
    on = report["machine"]
    where = f"{on['cpu']}, {on['cores']} cores, {on['date']}; {report['rounds']} rounds."
    return table(_HEAD, rows) + f"\n{where}\n"


def _words(name: str, load: dict[str, Any]) -> str:
    kind = f"{load['calls']} {'streams' if load['stream'] else 'unary calls'}"
    pace = f"{load['rate']} a second" if load["rate"] else f"{load['concurrency']} at once"
    return f"`{name}`: {kind} of {load['tokens']} tokens, {pace}"


def _cell(one: dict[str, Any], judge: str, key: str, field: str) -> str:
    value = one["said"][judge].get(field)
    if value is None:
        return ""
    return f"{value:.1f}, {one[key][field]:+.1%}"


if __name__ == "__main__":
    main()
