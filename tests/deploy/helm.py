"""The chart as Helm renders it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

_FOLDER = Path(__file__).parents[2] / "deploy" / "helm"


def _script(name: str) -> ModuleType:
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(f"chart_{name}", _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chart_render = _script("render")
settings_schema = _script("settings_schema")

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
        for one in yaml.load_all(text, yaml.CSafeLoader)
        if one
    ]


def only(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """Find the one object of a kind, and of a name's end."""
    [found] = [
        one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(name)
    ]
    return found


def pod_of(objects: list[dict[str, Any]], kind: str = "Deployment") -> dict[str, Any]:
    """The servers' pod."""
    [workload] = [
        one
        for one in objects
        if one["kind"] == kind
        and one["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec
