"""The tables of docs/results/cluster.md: calls by scenario and way in, and what else was found."""

from __future__ import annotations

from scenarios.verdict import WAYS, Row

KINDS = ("unary", "streams", "HTTP")


def tables(rows: list[Row]) -> str:
    calls = [row for row in rows if "calls" in row]
    facts = [row for row in rows if "value" in row]
    return "\n".join([*_calls(calls), "", *_facts(facts)])


def _calls(rows: list[Row]) -> list[str]:
    columns = [(way, kind) for way in WAYS for kind in KINDS]
    lines = [f"| | {' | '.join(f'{way}, {kind}' for way, kind in columns)} |"]
    lines.append("| --- " * (len(columns) + 1) + "|")
    for measure in dict.fromkeys(str(row["measure"]) for row in rows):
        found = {(row["way"], row["kind"]): row for row in rows if row["measure"] == measure}
        cells = [_ended(found[one]) if one in found else "" for one in columns]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return lines


def _ended(row: Row) -> str:
    """How many calls failed of how many, and in what way."""
    parts = [f"{row[key]} {key}" for key in ("refused", "lost") if row[key]]
    text = f"{row['refused'] + row['lost']} of {row['calls']}"
    return text + (f" ({', '.join(parts)})" if parts else "") + _mark(row)


def _facts(rows: list[Row]) -> list[str]:
    lines = ["| | |", "| --- | --- |"]
    for row in rows:
        value = str(row["value"]).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {row['measure']} | {value}{_mark(row)} |")
    return lines


def _mark(row: Row) -> str:
    return " **not as promised**" if row["ok"] is False else ""
