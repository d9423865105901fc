"""The JSON of a lease: written anew, whole, with every row, so that whatever ends the process loses
none."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .context import Row, failed

DONE = "done"
"""The status of a stage that came to its end with nothing wrong: the only one that a later lease
does not run again."""

WRONG = "wrong"
"""Of a stage that came to its end, with rows that say of themselves that they are wrong."""
NO_TIME = "no time"
UNAVAILABLE = "unavailable"
"""Of a stage that lacked something here, and said what."""


def read_results(path: Path) -> dict[str, Any]:
    """What another lease wrote. Raises OSError, or ValueError for what is no lease's JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(
            isinstance(row["name"], str)
            for stage in found["stages"].values()
            for row in stage["rows"]
        ) and all(isinstance(stage["status"], str) for stage in found["stages"].values()):
            # One that was ended before it had looked at its machine has what it was to go on from
            # apart.
            return {**found, "stages": {**found.get("before", {}), **found["stages"]}}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"{path} is not what a lease writes")


class Results:
    """`data`: {"stages": {name: {"status", "seconds", "limit_s", "rows", ...}}, ...}; in all of
    `paths`."""

    def __init__(self, paths: Sequence[Path], about: dict[str, Any]) -> None:
        self.paths = paths
        self.data: dict[str, Any] = {**about, "stages": {}}

    def resume(self, earlier: dict[str, Any]) -> None:
        """Take over what another lease found: whole stages, and of others the good rows."""
        for name, stage in earlier.get("stages", {}).items():
            rows = [{**row, "earlier": True} for row in stage["rows"] if row.get("good", True)]
            self.data["stages"][name] = {**stage, "rows": rows, "earlier": True}

    def begin(self, stage: str, limit_s: float) -> None:
        """Open a stage; rows that it has already stay."""
        rows = self.rows(stage)
        self.data["stages"][stage] = {
            "status": "running",
            "seconds": 0.0,
            "limit_s": round(limit_s, 1),
            "rows": rows,
        }
        self.write()

    def add(self, stage: str, row: Row) -> None:
        """Keep a row, in the place of one of the same name."""
        rows = self.data["stages"][stage]["rows"]
        rows[:] = [*(r for r in rows if r["name"] != row["name"]), row]
        self.write()

    def end(self, stage: str, status: str, seconds: float, **more: Any) -> None:
        self.data["stages"][stage] |= {"status": status, "seconds": round(seconds, 1), **more}
        self.write()

    def end_running(self) -> None:
        """Of a lease that is ended from outside."""
        for stage in self.data["stages"].values():
            if stage["status"] == "running":
                stage["status"] = "ended from outside"

    def rows(self, stage: str) -> list[Row]:
        return self.data["stages"].get(stage, {}).get("rows", [])

    def status(self, stage: str) -> str:
        return self.data["stages"].get(stage, {}).get("status", "")

    def complete(self, stage: str) -> bool:
        """Whether it need not be run again: it is done, and nothing that it tried has raised."""
        return self.status(stage) == DONE and not any(failed(row) for row in self.rows(stage))

    def wrong(self, stage: str) -> list[str]:
        """Names of the rows that say of themselves that they are."""
        return [row["name"] for row in self.rows(stage) if not row.get("good", True)]

    def write(self) -> None:
        text = json.dumps(self.data, indent=1, default=str) + "\n"
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{path.name}.{os.getpid()}")
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
