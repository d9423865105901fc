"""What an ended call says of the server: it was refused before it began, or it was lost."""

from __future__ import annotations

import re
from typing import Any

Row = dict[str, Any]
BEFORE = re.compile(
    r"Error while dialing|connection refused|no children to pick from|name resolver|"
    r"produced zero addresses|takes no new requests|ConnectError|ConnectTimeout|HTTP 503"
)
"""Texts of UNAVAILABLE (over HTTP: no connection, 503) that say that no server had taken the call."""
WAYS = ("Service", "Envoy")


def judged(
    report: dict[str, Any], way: str, killed: bool = False, refusing: bool | None = None
) -> Row:
    """A row from ghz's report: how calls ended, and whether that is what callers were promised.

    No call may be lost, and none be refused but over the Service with UNAVAILABLE. `killed` says that
    a process on the calls' way was ended with SIGKILL: what ran in it is lost of necessity. `refusing`
    says whether calls may be refused where that is not what the way says.
    """
    statuses: dict[str, int] = report.get("statusCodeDistribution") or {}
    errors: dict[str, int] = report.get("errorDistribution") or {}
    calls, fine = sum(statuses.values()), statuses.get("OK", 0)
    refused = min(sum(n for text, n in errors.items() if BEFORE.search(text)), calls - fine)
    lost = calls - fine - refused
    wrong = [name for name in statuses if name not in ("OK", "Unavailable")]
    may_refuse = way == "Service" if refusing is None else refusing
    ok = calls > 0 and not wrong and (not lost or killed) and (not refused or may_refuse)
    return {
        "way": way,
        "calls": calls,
        "refused": refused,
        "lost": lost,
        "by_status": dict(sorted(statuses.items())),
        "errors": errors,
        "killed": killed,
        "ok": ok,
    }


def failures(rows: list[Row]) -> list[str]:
    """What did not hold, a line each."""
    return [f"{row['scenario']}: {described(row)}" for row in rows if row["ok"] is False]


def described(row: Row) -> str:
    if "value" in row:
        return f"{row['measure']}: {row['value']}"
    errors = "; ".join(f"{n} × {text}" for text, n in row["errors"].items())
    return (
        f"{row['measure']}, {row['way']}, {row['kind']}: {row['refused']} refused and "
        f"{row['lost']} lost of {row['calls']} ({errors})"
    )
