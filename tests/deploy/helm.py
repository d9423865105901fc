"""The chart as Helm renders it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parents[2] / "deploy" / "helm" / "render.py"
_SPEC = importlib.util.spec_from_file_location("chart_render", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
chart_render = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(chart_render)

CHART: Path = chart_render.CHART


def render(
    values: dict[str, Any] | None = None, release: str = "loramux", namespace: str = "default"
) -> list[dict[str, Any]]:
    """Give the objects of a release. Raises helm_python.HelmError for values that are refused."""
    found = chart_render.render(values, release, namespace)
    return [
        one
        for path, text in found.items()
        if not path.endswith("NOTES.txt")
        for one in yaml.safe_load_all(text)
        if one
    ]


def only(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """Find the one object of a kind, and of a name's end."""
    [found] = [
        one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name)
    ]
    return found
