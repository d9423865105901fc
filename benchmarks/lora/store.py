"""Results on disk: a JSON file each for runs and studies; what is there is not done again."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common.host import cpu_name

from .specs import Spec


class Store:
    """The files of one results directory. Written whole, by one process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def runs(self) -> dict[str, dict[str, Any]]:
        return self.load("runs").get("runs", {})

    def has(self, spec: Spec) -> bool:
        found = self.runs().get(spec.key)
        return found is not None and found["settings"] == spec.settings()

    def add(self, key: str, result: dict[str, Any], about: dict[str, Any]) -> None:
        runs = self.runs() | {key: result}
        self.save("runs", {"about": about, "runs": dict(sorted(runs.items()))})

    def load(self, name: str) -> dict[str, Any]:
        path = self._directory / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def save(self, name: str, value: dict[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{name}.json"
        partial = path.with_suffix(".tmp")
        partial.write_text(_compact(json.dumps(value, indent=1)) + "\n")
        os.replace(partial, path)


def machine(base: Path) -> dict[str, Any]:
    """What the seconds depend on, and the base."""
    return {
        "cpu": cpu_name(),
        "base": base.resolve().name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _compact(text: str) -> str:
    """Lists of numbers on one line."""

    def flat(match: re.Match[str]) -> str:
        return re.sub(r"\s+", " ", match[0]).replace("[ ", "[").replace(" ]", "]")

    return re.sub(r"\[[-\d\s.,e+]+\]", flat, text)
