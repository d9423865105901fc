"""Pictures of the board's rows: each panel's own queries, in its place. They are not Grafana's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.common.paths import ROOT

from .kinds import KINDS, Panel
from .prometheus import RATE_S, Line, Prometheus, Window

BOARD = ROOT / "deploy/helm/loramux/dashboards/loramux.json"
_COLUMN, _ROW = 0.68, 0.36
"""Inches of a place of the grid."""
_COLUMNS = 24
_MARGINS = {
    "stat": (0.18, 0.15),
    "table": (0.2, 0.2),
    "state-timeline": (0.2, 0.4),
    "bargauge": (0.75, 0.3),
}
"""Inches left of and below what kinds of panels draw."""


def draw(source: Prometheus, window: Window, folder: Path) -> list[Path]:
    """Draw each row of the board into a file of its own."""
    made = []
    for title, panels in rows(json.loads(BOARD.read_text())):
        path = folder / f"dashboard-{title.lower()}.png"
        _row(title, panels, source, window).savefig(path, dpi=80)
        made.append(path)
    return made


def rows(board: dict[str, Any]) -> list[tuple[str, list[Panel]]]:
    """Titles of the rows with their panels."""
    found: list[tuple[str, list[Panel]]] = []
    for panel in board["panels"]:
        if panel["type"] == "row":
            found.append((panel["title"], []))
        else:
            found[-1][1].append(panel)
    return found


def _row(title: str, panels: list[Panel], source: Prometheus, window: Window) -> Figure:
    top = min(panel["gridPos"]["y"] for panel in panels)
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) - top + 1
    figure = Figure(figsize=(_COLUMNS * _COLUMN, height * _ROW), facecolor="#f4f5f5")
    figure.text(0.01, 1 - 0.5 / height, title, fontsize=12, weight="bold", va="center")
    for panel in panels:
        at = panel["gridPos"]
        box = (
            at["x"] / _COLUMNS,
            1 - (at["y"] - top + 1 + at["h"]) / height,
            at["w"] / _COLUMNS,
            at["h"] / height,
        )
        _panel(figure, box, panel, source, window)
    return figure


def _panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    panel: Panel,
    source: Prometheus,
    window: Window,
) -> None:
    x, y, width, height = box
    inch_x, inch_y = 1 / figure.get_figwidth(), 1 / figure.get_figheight()
    card = figure.add_axes(
        (x + 0.04 * inch_x, y + 0.04 * inch_y, width - 0.08 * inch_x, height - 0.08 * inch_y)
    )
    card.set(xticks=[], yticks=[], facecolor="white")
    for spine in card.spines.values():
        spine.set_color("#d8d9da")
    figure.text(
        x + 0.14 * inch_x,
        y + height - 0.2 * inch_y,
        panel["title"],
        fontsize=9,
        va="center",
    )
    left, bottom = _MARGINS.get(panel["type"], (0.62, 0.72))
    inside = figure.add_axes(
        (
            x + left * inch_x,
            y + bottom * inch_y,
            width - (left + 0.18) * inch_x,
            height - (bottom + 0.38) * inch_y,
        )
    )
    KINDS[panel["type"]](inside, panel, _answers(panel, source, window), window)


def _answers(panel: Panel, source: Prometheus, window: Window) -> list[tuple[str, Line]]:
    found = []
    for target in panel["targets"]:
        query = re.sub(r'"\$(namespace|job|pod|adapter)"', '".*"', target["expr"])
        query = query.replace("$__rate_interval", f"{RATE_S}s")
        query = query.replace("$__range", f"{window.end - window.start:.0f}s")
        lines = source.at(query, window.end) if target["instant"] else source.range(query, window)
        for line in lines:
            name = re.sub(
                r"{{(\w+)}}", lambda m, at=line: at.labels.get(m[1], ""), target["legendFormat"]
            )
            found.append((name, line))
    return found
