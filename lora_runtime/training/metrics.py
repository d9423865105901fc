"""metrics.jsonl: a line per step and per evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from ..durable import naming, replace_file

NAME = "metrics.jsonl"


class Metrics:
    """All lines in memory and, appended as they come, in the file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self.rows: list[dict[str, float]] = []

    def restart(self, rows: list[dict[str, float]]) -> None:
        """Keep these lines alone; what an ended run wrote after its last checkpoint comes again."""
        self.rows = list(rows)
        replace_file(self._path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())

    def add(self, **row: float) -> None:
        self.rows.append(row)
        with naming(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(f"{json.dumps(row)}\n")

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every line that has it."""
        return [(int(row["step"]), row[name]) for row in self.rows if name in row]
