"""Make the board of the chart: python deploy/dashboard/build.py [--check]."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from panels import COLUMNS, SOURCE, heading
from rows import ROWS

FILE = Path(__file__).parents[1] / "helm/loramux/dashboards/loramux.json"
_VARIABLES = {
    "namespace": "label_values(loramux_ready, namespace)",
    "job": 'label_values(loramux_ready{namespace=~"$namespace"}, job)',
    "pod": 'label_values(loramux_ready{namespace=~"$namespace",job=~"$job"}, pod)',
    "adapter": 'label_values(loramux_requests_total{namespace=~"$namespace",job=~"$job"}, adapter)',
}


def board() -> dict[str, Any]:
    """The board as Grafana imports it."""
    return {
        "uid": "loramux",
        "title": "loramux",
        "description": "Many LoRA adapters on one base: calls, adapters, capacity, reliability.",
        "tags": ["loramux", "inference"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource(), *(_variable(*one) for one in _VARIABLES.items())]},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_placed()),
    }


def _placed() -> Iterable[dict[str, Any]]:
    number = y = 0
    for title, panels in ROWS.items():
        number += 1
        yield heading(title, number, y)
        x, y, tallest = 0, y + 1, 0
        for panel in panels:
            width, height = panel.size
            if x + width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            yield panel.to_json(number, x, y)
            x, tallest = x + width, max(tallest, height)
        y += tallest


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # also of what has no such label: a Prometheus outside of Kubernetes
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def main() -> None:
    text = json.dumps(board(), indent=1) + "\n"
    if "--check" not in sys.argv:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        sys.exit(f"{FILE.name} is not what deploy/dashboard says: run deploy/dashboard/build.py")


if __name__ == "__main__":
    main()
