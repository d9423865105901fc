"""A release of the chart, by the helm that is on the PATH."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "helm" / "loramux"
Values = dict[str, Any]


class Release:
    def __init__(self, name: str, namespace: str, front: str = "router") -> None:
        """`front`: what stands before the servers, router or picker."""
        self.name, self.namespace, self.front = name, namespace, front
        self.full = f"{name}-loramux"
        """What the chart calls its objects, whose Service is called just so."""
        self.router = f"{self.full}-{front}"

    def run(self, *args: str) -> str:
        command = ["helm", "--namespace", self.namespace, *args]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"helm {args[0]}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def apply(self, values: Values) -> None:
        """Install it, or change it to these values; returns at once."""
        self._with(values, "upgrade", "--install", self.name)

    def template(self, values: Values) -> str:
        return self._with(values, "template", self.name)

    def _with(self, values: Values, *args: str) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            return self.run(*args, str(CHART), "--values", file.name)

    def uninstall(self) -> None:
        self.run("uninstall", self.name, "--ignore-not-found", "--wait", "--timeout", "5m")


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Values as helm merges two files: maps key by key, all else as a whole."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return found
