"""The table of a run: each attack, what the neighbour saw of it, and the server's memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One attack."""

    attack: str
    longest_gap_ms: int
    first_token_ms: int
    health_ms: int
    memory_before_mb: int
    memory_peak_mb: int
    memory_after_mb: int
    seconds: float
    outcome: str
    """What the attacker got, or what is wrong with it."""
    held: bool


ROWS: list[Row] = []
"""Of this session, in the order in which they were tried."""
_kept_in: list[Path] = []


def keep_in(path: Path) -> None:
    """Write the rows there too, as JSON."""
    _kept_in[:] = [path]


def add(row: Row) -> None:
    """Take a row; the file has it at once, however the session ends."""
    ROWS.append(row)
    for path in _kept_in:
        path.write_text(json.dumps([asdict(row) for row in ROWS], indent=1) + "\n")


def table(rows: Iterable[Row]) -> list[str]:
    head = f"{'attack':52} {'gap':>6} {'first':>6} {'health':>6} {'before':>6} {'peak':>6} {'after':>6} {'s':>5}"
    lines = [f"{head}  outcome (times in ms, memory in MB)"]
    for r in rows:
        numbers = (r.longest_gap_ms, r.first_token_ms, r.health_ms)
        memory = (r.memory_before_mb, r.memory_peak_mb, r.memory_after_mb)
        shown = " ".join(f"{n:6}" for n in (*numbers, *memory))
        mark = "" if r.held else "NOT HELD: "
        lines.append(f"{r.attack[:52]:52} {shown} {r.seconds:5.1f}  {mark}{r.outcome[:160]}")
    return lines
