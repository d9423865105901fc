"""The fleet's figures as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

_COLOURS = ("#8c8c8c", "#bdbdbd", "#1b6ca8", "#9cc7e4", "#6aa7d2", "#e08e0b", "#5a9e4b")


def draw(report: dict[str, Any], target: Path) -> None:
    """Draw a row for each load: loads, balance, TTFT at p50 and p99."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # behind the choice of what draws

    cells = report["cells"]
    figure, axes = plt.subplots(
        len(cells), 4, figsize=(13, 1.7 * len(cells) + 0.8), squeeze=False, layout="constrained"
    )
    for row, (name, cell) in zip(axes, cells.items(), strict=True):
        _bars(row[0], cell, [p["loads_per_1000"] for p in cell.values()], "%.0f")
        _bars(row[1], cell, [p["balance_requests"] for p in cell.values()], "%.2f")
        _bars(row[2], cell, [p["ttft_ms"]["all"][0] for p in cell.values()], "%.0f")
        _bars(row[3], cell, [p["ttft_ms"]["all"][1] for p in cell.values()], "%.0f")
        row[0].set_ylabel(name, fontsize=8)
        row[0].set_yticks(range(len(cell)), list(cell), fontsize=7)
    titles = ("adapter loads per 1,000", "highest / mean requests", "TTFT p50, ms", "TTFT p99, ms")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9, loc="left")
    about = report["machine"]
    figure.suptitle(f"{about['cores']} cores of {about['cpu']}, {about['date']}", fontsize=9)
    figure.savefig(target, dpi=110)


def _bars(axis: Any, cell: dict[str, Any], values: list[float], form: str) -> None:
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(cell))]
    bars = axis.barh(range(len(cell)), values, color=colours)
    axis.bar_label(bars, fmt=form, padding=2, fontsize=7)
    axis.set_yticks([])
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.tick_params(axis="x", labelsize=6)
    axis.spines[["top", "right"]].set_visible(False)
