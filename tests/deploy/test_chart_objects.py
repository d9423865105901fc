"""What the chart's values make of its objects, where a default or another part of the chart stands beside them."""

from __future__ import annotations

from typing import Any

import pytest

from .helm import only, pod_of, render
from .test_chart_choices import POOL, policy_of


def test_other_sources_of_volumes_are_in_the_place_of_the_default_ones() -> None:
    volumes = {
        "cache": {"hostPath": {"path": "/c"}},
        "state": {"persistentVolumeClaim": {"claimName": "s"}},
        "tmp": {"emptyDir": {"sizeLimit": "1Gi"}},
    }
    pod = pod_of(render({"volumes": volumes}))
    found = {one["name"]: one for one in pod["volumes"]}
    assert all(found[name] == {"name": name} | source for name, source in volumes.items())


def test_old_pods_may_go_first() -> None:
    objects = render({"strategy": {"type": "Recreate"}})
    assert only(objects, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(("drain", "grace"), [(0, 15), (7.5, 23)])
def test_the_grace_period_counts_no_drain_as_none(drain: float, grace: int) -> None:
    pod = pod_of(render({"settings": {"drain_s": drain}}))
    assert pod["terminationGracePeriodSeconds"] == grace


def test_long_names_that_begin_alike_differ() -> None:
    one, other = ("-".join(["llm"] * 11) + end for end in ("-blue", "-green"))
    names = [
        {o["metadata"]["name"] for o in render({"router": {"enabled": True}}, release=release)}
        for release in (one, other)
    ]
    assert not names[0] & names[1]
    assert all(len(name) <= 63 for name in names[0])


def test_the_api_server_has_rules_of_its_own() -> None:
    rules: list[dict[str, Any]] = [
        {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        {"ports": [{"port": 8443}]},
    ]
    more = {"ports": [{"port": 4317}]}
    values = {
        "picker": {"enabled": True, "apiServer": rules},
        "router": {"extraEgress": [more]},
        "networkPolicy": {"dns": []},
    }
    _, first, second, last = policy_of(render(values), "picker")["spec"]["egress"]
    assert first == rules[0] | {"ports": [{"port": 443}, {"port": 6443}]}
    assert [second, last] == [rules[1], more]


@pytest.mark.parametrize("on", ["server", "router"])
def test_labels_are_no_annotations(on: str) -> None:
    service = {
        "annotations": {"a": "1"},
        "labels": {"b": "2"},
        "spec": {"publishNotReadyAddresses": True},
    }
    objects = render({"service": service, "router": {"enabled": True, "service": service}})
    found = only(objects, "Service", "-router" if on == "router" else "loramux")
    assert found["metadata"]["annotations"] == service["annotations"]
    assert found["metadata"]["labels"]["b"] == "2"
    assert found["spec"]["publishNotReadyAddresses"]


def test_what_runs_beside_the_servers_goes_where_it_may() -> None:
    where = {"nodeSelector": {"pool": "cpu"}, "tolerations": [{"operator": "Exists"}]}
    account = {"create": False, "name": "epp"}
    values = where | {"picker": POOL | {"serviceAccount": account}, "router": where}
    objects = render(values)
    test = only(objects, "Pod")["spec"]
    picker = only(objects, "Deployment", "-picker")["spec"]["template"]["spec"]
    assert all(where.items() <= spec.items() for spec in (test, picker))
    assert picker["serviceAccountName"] == "epp"
    assert only(objects, "RoleBinding")["subjects"] == [{"kind": "ServiceAccount", "name": "epp"}]
    assert not [one for one in objects if one["kind"] == "ServiceAccount"]


@pytest.mark.parametrize(
    ("values", "component", "port"),
    [
        ({"router": {"enabled": True, "ports": {"metrics": 9999}}}, "router", "9999"),
        (
            {"router": {"enabled": True, "placement": {"enabled": True, "port": 9471}}},
            "placement",
            "9471",
        ),
    ],
)
def test_annotations_name_the_port_of_metrics(
    values: dict[str, Any], component: str, port: str
) -> None:
    template = only(render(values), "Deployment", component)["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == port
