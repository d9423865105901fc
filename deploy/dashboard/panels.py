"""Panels as Grafana's JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
_LAST = ["lastNotNull"]
_NOW = {"values": False, "calcs": _LAST}
_LEGEND = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": _LEGEND,
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _NOW, "graphMode": "area", "colorMode": "value"},
    "bargauge": {"reduceOptions": _NOW, "orientation": "horizontal", "displayMode": "basic"},
    "state-timeline": {"legend": _LEGEND},
    "table": {"cellHeight": "sm", "showHeader": True},
}
_INSTANT = ("table", "bargauge")
"""Kinds that show this moment."""
_SIZES = {"stat": (4, 4), "bargauge": (8, 8), "table": (8, 8)}


@dataclass(frozen=True)
class Panel:
    """A panel of one unit; `queries` are legends with expressions.

    `most`: the upper end of the axis; `thresholds`: from where a figure is orange, and red;
    `colours`: of series, by their names.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    about: str = ""
    stacked: bool = False
    most: float | None = None
    thresholds: tuple[float, float] | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    width: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the grid."""
        width, height = _SIZES.get(self.kind, (8, 8))
        return self.width or width, height

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel at a place of the grid."""
        width, height = self.size
        made: dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "fieldConfig": {
                "defaults": self._defaults(),
                "overrides": [_coloured(*one) for one in self.colours.items()],
            },
            "options": _OPTIONS[self.kind],
            "targets": [self._target(i, *query) for i, query in enumerate(self.queries)],
        }
        if self.about:
            made["description"] = self.about
        if self.kind == "table":
            made["transformations"] = [
                {"id": "organize", "options": {"excludeByName": {"Time": True}}},
                {"id": "sortBy", "options": {"sort": [{"field": "adapter"}]}},
            ]
        return made

    def _target(self, i: int, legend: str, query: str) -> dict[str, Any]:
        instant = self.kind in _INSTANT
        return {
            "refId": chr(ord("A") + i),
            "datasource": SOURCE,
            "expr": query,
            "legendFormat": legend,
            "range": not instant,
            "instant": instant,
            **({"format": "table"} if self.kind == "table" else {}),
        }

    def _defaults(self) -> dict[str, Any]:
        made: dict[str, Any] = {"unit": self.unit, "min": 0}
        if self.most is not None:
            made["max"] = self.most
        if self.kind == "timeseries":
            made["custom"] = {
                "lineWidth": 1,
                "fillOpacity": 30 if self.stacked else 5,
                "showPoints": "auto",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            }
        if self.kind == "state-timeline":
            made["color"] = {"mode": "thresholds"}
            made["mappings"] = [_words({"0": ("not ready", "red"), "1": ("ready", "green")})]
        if self.thresholds:
            colours = zip(("green", "orange", "red"), (None, *self.thresholds), strict=True)
            steps = [{"color": colour, "value": value} for colour, value in colours]
            made["thresholds"] = {"mode": "absolute", "steps": steps}
        return made


def _coloured(name: str, colour: str) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def _words(of: dict[str, tuple[str, str]]) -> dict[str, Any]:
    options = {
        value: {"text": text, "color": colour, "index": i}
        for i, (value, (text, colour)) in enumerate(of.items())
    }
    return {"type": "value", "options": options}


def heading(title: str, number: int, y: int) -> dict[str, Any]:
    """A row's heading; the panels below it follow it in the list."""
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }
