"""Which pods Prometheus reads, and under which job."""

from __future__ import annotations

from typing import Any

import pytest

from .helm import render
from .test_monitoring import ALL_ON


def picked(selector: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The ports of the pods that a selector picks, by component."""
    pods = [one["spec"]["template"] for one in found if one["kind"] == "Deployment"]
    chosen = {}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        expressions = selector.get("matchExpressions", [])
        if selector["matchLabels"].items() <= labels.items() and all(
            labels[one["key"]] in one["values"] for one in expressions
        ):
            ports = {port["name"] for one in pod["spec"]["containers"] for port in one["ports"]}
            chosen[labels["app.kubernetes.io/component"]] = ports
    return chosen


@pytest.mark.parametrize(
    ("front", "jobs"),
    [
        ({"router": {"enabled": True}}, {"metrics": "router"}),
        (
            {"router": {"enabled": True, "placement": {"enabled": True}}},
            {"metrics": "router", "placement": "placement"},
        ),
        ({"picker": {"enabled": True}}, {"metrics": "picker", "picker-metrics": "picker"}),
        (
            {"picker": {"enabled": True, "envoy": {"enabled": False}}},
            {"picker-metrics": "picker"},
        ),
    ],
)
def test_pod_monitors_pick_servers_and_what_is_before_them(
    front: dict[str, Any], jobs: dict[str, str]
) -> None:
    found = render(front | ALL_ON, release="some")
    servers, others = [one["spec"] for one in found if one["kind"] == "PodMonitor"]
    ports = picked(servers["selector"], found)
    assert servers["podMetricsEndpoints"][0]["port"] in ports.pop("server")
    assert not ports
    ports = picked(others["selector"], found)
    assert ports.keys() == set(jobs.values())
    asked = {
        one["port"]: one["relabelings"][0]["replacement"] for one in others["podMetricsEndpoints"]
    }
    assert asked == {port: f"some-loramux-{job}" for port, job in jobs.items()}
    assert all(port in ports[job] for port, job in jobs.items())


@pytest.mark.parametrize("release", ["some", "loramux", "another-loramux"])
def test_the_pod_monitor_picks_the_servers_of_its_release(release: str) -> None:
    found = render(ALL_ON, release=release)
    (monitor,) = [one["spec"] for one in found if one["kind"] == "PodMonitor"]
    assert picked(monitor["selector"], found).keys() == {"server"}
