"""The chart's values: each is said, a typo is told, and the command line takes what the chart gives it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import typer
import yaml

from server.cli import app

from .helm import CHART, only, pod_of, render, settings_schema

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
WITHOUT_DEFAULT = {".global", ".resources.claims", ".strategy.type"}


def test_the_schema_has_the_servers_settings() -> None:
    assert settings_schema.SCHEMA.read_text() == settings_schema.written(), "make manifests"


def unequal(values: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Keys that only one of both has, where the schema allows no others."""
    if "properties" not in schema or path == ".settings":
        return
    for name in values.keys() ^ schema["properties"].keys():
        yield f"{path}.{name}"
    for name, inner in schema["properties"].items():
        if isinstance(values.get(name), dict):
            yield from unequal(values[name], inner, f"{path}.{name}")


def closed(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Objects with properties that others may stand beside."""
    for name, inner in schema.get("properties", {}).items():
        if "properties" in inner and inner.get("additionalProperties") is not False:
            yield f"{path}.{name}"
        yield from closed(inner, f"{path}.{name}")


def test_each_value_stands_in_both_files() -> None:
    # Helm gives each chart `global`.
    assert set(unequal(VALUES, SCHEMA)) <= WITHOUT_DEFAULT


def test_nothing_stands_beside_them() -> None:
    assert SCHEMA["additionalProperties"] is False
    assert not set(closed(SCHEMA))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"settings": {"max_runing": 8}}, "max_runing"),
        ({"settings": {"max_running": 0}}, "/settings/max_running"),
        ({"settings": {"policies": {"*": {"weigth": 1}}}}, "weigth"),
        ({"settings": {"drain_s": "45"}}, "/settings/drain_s"),
        ({"networkPolicy": {"egres": []}}, "egres"),
        ({"stateClaim": {"retention": {"whenScaled": "Keep"}}}, "whenScaled"),
        ({"service": {"type": "LoadBalancer"}}, "service.clusterIP"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute.parentRefs"),
        (
            {"scaling": {"hpa": {"enabled": True, "minReplicas": 5}}},
            "minReplicas 5 is more than maxReplicas 4",
        ),
        ({"stateClaim": {"enabled": True}, "strategy": {"type": "Recreate"}}, "strategy.type"),
    ],
)
def test_a_mistake_is_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(helm_python.HelmError) as error:
        render(values)
    assert told in str(error.value)


@pytest.mark.parametrize("size", [8589934592, 1 << 50])
def test_large_numbers_stay_whole(size: int) -> None:
    config = only(render({"settings": {"adapter_cache_bytes": size}}), "ConfigMap", "loramux")
    assert yaml.safe_load(config["data"]["loramux.yaml"])["adapter_cache_bytes"] == size


def test_a_setting_can_be_left_to_the_server() -> None:
    objects = render({"settings": {"drain_s": None, "drain_delay_s": None}})
    text = only(objects, "ConfigMap", "loramux")["data"]["loramux.yaml"]
    assert "drain" not in text
    assert pod_of(objects)["terminationGracePeriodSeconds"] == 40, "the server's own 30, and 10"


def parsed(args: list[str]) -> dict[str, Any]:
    """What the command line understands of a container's arguments."""
    command = typer.main.get_command(app).commands[args[0]]  # type: ignore[attr-defined]
    params: dict[str, Any] = command.make_context(args[0], list(args[1:])).params
    return params


def test_the_command_line_takes_what_the_containers_say() -> None:
    fetch = {"source": "https://host/base.tar.gz", "sha256": "0" * 64}
    values = {
        "model": {"existingClaim": "base", "fetch": fetch},
        "networkPolicy": {"egress": [{"ports": [{"port": 443}]}]},
    }
    objects = render(values)
    [fetcher] = pod_of(objects)["initContainers"]
    assert fetch.items() <= parsed(fetcher["args"]).items()
    [ask] = only(objects, "Pod")["spec"]["containers"]
    assert list(parsed(ask["args"])["adapter"]) == ["support"]


@pytest.mark.parametrize("values", [{}, {"router": {"enabled": True}}], ids=["default", "router"])
@pytest.mark.skipif(not os.environ.get("HELM3"), reason="HELM3 names no program of Helm 3")
def test_helm_3_gives_the_same(values: dict[str, Any]) -> None:
    program = shutil.which(os.environ["HELM3"])
    assert program is not None
    command = [program, "template", "loramux", str(CHART), "-f", "-"]
    done = subprocess.run(
        [*command, "--kube-version", "1.37.0"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=True,
    )
    found = sorted(json.dumps(o, sort_keys=True) for o in yaml.safe_load_all(done.stdout) if o)
    assert found == sorted(json.dumps(one, sort_keys=True) for one in render(values))
