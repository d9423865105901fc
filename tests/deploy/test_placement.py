"""What placement adds to the chart."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
import yaml

from .helm import only, render

ON = {"router": {"enabled": True, "placement": {"enabled": True}}}


def envoy(objects: list[dict[str, Any]]) -> dict[str, Any]:
    config = only(objects, "ConfigMap", "-router")["data"]["envoy.yaml"]
    return dict(yaml.safe_load(config))


def test_it_is_off_by_default() -> None:
    for values in ({}, {"router": {"enabled": True}}):
        assert not [one for one in render(values) if "placement" in one["metadata"]["name"]]


@pytest.mark.parametrize("release", ["loramux", "other"])
def test_envoy_asks_the_one_that_is_deployed(release: str) -> None:
    objects = render(ON, release)
    service = only(objects, "Service", "-placement")
    config = envoy(objects)["static_resources"]
    (cluster,) = [one for one in config["clusters"] if one["name"] == "placement"]
    (found,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = found["endpoint"]["address"]["socket_address"]
    assert address["address"] == service["metadata"]["name"]
    assert address["port_value"] == service["spec"]["ports"][0]["port"]
    deployment = only(objects, "Deployment", "-placement")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    pods = only(objects, "Service", service["metadata"]["name"].removesuffix("-placement"))
    assert pods["spec"]["clusterIP"] == "None"
    assert f"--replica={pods['metadata']['name']}:9464=50051,8000" in container["args"]
    assert "RollingUpdate" not in str(deployment["spec"]["strategy"])


def test_hosts_are_named_behind_the_adapter_and_before_the_route() -> None:
    for listener in envoy(render(ON))["static_resources"]["listeners"]:
        (manager,) = listener["filter_chains"][0]["filters"]
        names = [one["name"] for one in manager["typed_config"]["http_filters"]]
        if listener["name"] in ("grpc", "http"):
            named = f"loramux.placement.{listener['name']}"
            assert names.index("envoy.filters.http.lua") < names.index(named) < len(names) - 1


def test_nobody_but_router_and_prometheus_reaches_it() -> None:
    objects = render(ON)
    spec = only(objects, "NetworkPolicy", "loramux-placement")["spec"]
    (rule,) = spec["ingress"]
    who = [one.get("podSelector") or one.get("namespaceSelector") for one in rule["from"]]
    assert who[0]["matchLabels"]["app.kubernetes.io/component"] == "router"
    assert who[1]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    (_, to_servers) = spec["egress"]
    assert to_servers["ports"] == [{"port": "metrics"}]
    into = only(objects, "NetworkPolicy", "-placement-to-servers")["spec"]
    assert into["ingress"][0]["ports"] == [{"port": "metrics"}]
    router = only(objects, "NetworkPolicy", "loramux-router")["spec"]["egress"]
    assert [one for one in router if one["ports"] == [{"port": 9470}]]


def test_one_of_elsewhere() -> None:
    values = {
        "router": {"enabled": True, "placement": {"enabled": True, "host": "placement.other"}}
    }
    objects = render(values)
    assert not [one for one in objects if one["metadata"]["name"].endswith("-placement")]
    assert "placement.other" in only(objects, "ConfigMap", "-router")["data"]["envoy.yaml"]


def test_placement_and_picker_are_one_too_many() -> None:
    with pytest.raises(helm_python.HelmError, match="both on"):
        render(ON | {"picker": {"enabled": True}})
