"""Result files, pictures of them, and what the numbers depend on."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from .host import cores, cpu_name
from .paths import MODEL, ROOT, VENVS


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cpu": cpu_name(),
        "cores": len(cores()),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": MODEL.name,
    }


def told(about: Mapping[str, Any]) -> str:
    """Say of a result's `machine` what it was, and when: "2 cores of AMD EPYC, 2026-11-28"."""
    return f"{about['cores']} cores of {about['cpu']}, {about['date']}"


def percentiles(values: Sequence[float]) -> list[float]:
    """The 1st to the 99th."""
    return quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99


def save(report: dict[str, Any], result: Path) -> None:
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {result}", file=sys.stderr)


def plot(module: str, result: Path, png: Path) -> None:
    """Draw a result with the command of `module`, in the environment that has matplotlib."""
    python = VENVS / "tools/bin/python"
    if not python.exists():
        print(
            "no plot: run `python -m benchmarks.compare.setup_peers`, which installs matplotlib",
            file=sys.stderr,
        )
        return
    subprocess.run([str(python), "-m", module, str(result), str(png)], check=True, cwd=ROOT)
