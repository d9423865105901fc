"""What one can choose in the chart: state that stays, ways in and out, how many there are."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest

from .helm import only, pod_of, render
from .test_chart import CORE, EVERYTHING, KUBERNETES

GATE = {"enabled": True, "parentRefs": [{"name": "gate"}]}
POOL = {"enabled": True, "envoy": {"enabled": False}}
TEST = {"app.kubernetes.io/component": "test"}


def policy_of(objects: list[dict[str, Any]], component: str) -> dict[str, Any]:
    """The policy of a component's own pods."""
    name = "loramux" if component == "server" else f"loramux-{component}"
    [found] = [
        one for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == name
    ]
    return found


def test_state_that_outlives_pods_is_a_claim_of_each() -> None:
    objects = render(EVERYTHING | {"stateClaim": {"enabled": True, "storageClassName": "fast"}})
    for one in objects:
        if one["apiVersion"] in CORE:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    spec = only(objects, "StatefulSet")["spec"]
    [claim] = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "state"
    assert claim["spec"]["storageClassName"] == "fast"
    assert "strategy" not in spec
    pod = spec["template"]["spec"]
    assert "state" not in {volume["name"] for volume in pod["volumes"]}
    assert {"name": "state", "mountPath": "/state"} in pod["containers"][0]["volumeMounts"]
    [spread] = pod["topologySpreadConstraints"]
    assert spread["matchLabelKeys"] == ["controller-revision-hash"]
    assert only(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["kind"] == (
        "StatefulSet"
    )


def test_pods_spread_over_nodes_anew_with_each_update() -> None:
    [spread] = pod_of(render())["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["matchLabelKeys"] == ["pod-template-hash"]
    own = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    own["labelSelector"] = {"matchLabels": {"a": "b"}}
    assert pod_of(render({"topologySpreadConstraints": [own]}))["topologySpreadConstraints"] == [
        own
    ]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": "25%"}, {"maxUnavailable": "25%"}),
        ({"minAvailable": 0}, {"minAvailable": 0}),
        ({"minAvailable": "50%"}, {"minAvailable": "50%"}),
    ],
)
def test_a_drain_leaves_so_many(budget: dict[str, Any], said: dict[str, Any]) -> None:
    spec = only(render({"podDisruptionBudget": budget}), "PodDisruptionBudget")["spec"]
    assert {k: v for k, v in spec.items() if k.endswith("Available") or k == "maxUnavailable"} == (
        said
    )
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


CALLER = {"podSelector": {"matchLabels": {"app": "caller"}}}
OTHER = {"podSelector": {"matchLabels": {"app": "other"}}}


@pytest.mark.parametrize(
    ("front", "component", "caller"),
    [
        ({}, "server", CALLER),
        ({"router": {"enabled": True}}, "router", CALLER),
        ({"router": {"enabled": True, "callsFrom": [OTHER]}}, "router", OTHER),
        ({"picker": {"enabled": True}}, "picker", CALLER),
        ({"picker": POOL}, "picker", CALLER),
        ({"picker": POOL | {"callsFrom": [OTHER]}}, "picker", OTHER),
    ],
)
def test_who_may_call_may_so_at_the_front(
    front: dict[str, Any], component: str, caller: dict[str, Any]
) -> None:
    objects = render(front | {"networkPolicy": {"callsFrom": [CALLER]}})
    first, *test = policy_of(objects, component)["spec"]["ingress"][0]["from"]
    assert first == caller
    if front.get("picker") is None or front["picker"].get("envoy") is None:
        assert TEST.items() <= test[0]["podSelector"]["matchLabels"].items()


def test_dns_may_be_elsewhere() -> None:
    dns = [{"ipBlock": {"cidr": "169.254.20.10/32"}}]
    policy = {"dns": dns, "egress": [{"ports": [{"port": 443}]}]}
    objects = render({"networkPolicy": policy, "router": {"enabled": True}})
    for component in ("server", "router"):
        rule = policy_of(objects, component)["spec"]["egress"][0]
        assert rule["to"] == dns


def test_own_rules_are_beside_those_of_the_chart() -> None:
    rule = {"from": [{"namespaceSelector": {}}], "ports": [{"port": 50052}]}
    spec = only(render({"networkPolicy": {"extraIngress": [rule]}}), "NetworkPolicy")["spec"]
    assert spec["ingress"][-1] == rule
    assert len(spec["ingress"]) == 3


def test_more_of_the_service_and_of_routes() -> None:
    ranges = {"loadBalancerSourceRanges": ["10.0.0.0/8"]}
    rule = {"matches": [{"method": {"service": "loramux.v1.Inference"}}]}
    values = {
        "service": {"type": "LoadBalancer", "clusterIP": "", "spec": ranges},
        "gateway": {"grpcRoute": GATE | {"rule": rule}},
    }
    objects = render(values)
    assert ranges.items() <= only(objects, "Service")["spec"].items()
    [found] = only(objects, "GRPCRoute")["spec"]["rules"]
    assert found == rule | {"backendRefs": [{"name": "loramux", "port": 50051}]}


@pytest.mark.parametrize(
    ("front", "backend", "target"),
    [
        ({"router": {"enabled": True}}, {"name": "loramux-router", "port": 8000}, "loramux-router"),
        ({"picker": {"enabled": True}}, {"name": "loramux-picker", "port": 8000}, "loramux-picker"),
        (
            {"picker": POOL},
            {
                "group": "inference.networking.k8s.io",
                "kind": "InferencePool",
                "name": "loramux",
            },
            "loramux",
        ),
    ],
    ids=["router", "picker", "pool"],
)
def test_what_is_before_the_servers_gets_the_calls(
    front: dict[str, Any], backend: dict[str, Any], target: str
) -> None:
    objects = render(front | {"gateway": {"httpRoute": GATE}})
    assert only(objects, "HTTPRoute")["spec"]["rules"] == [{"backendRefs": [backend]}]
    [ask] = only(objects, "Pod")["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in ask["env"]}
    assert env["LORAMUX_TARGET"] == f"{target}:50051"


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"adapters": {"manifest": {"adapters": [{"name": "a", "source": "/a"}]}}}, ["a"]),
        ({"adapters": {"manifest": {"adapters": []}}}, []),
        ({"adapters": {"existingConfigMap": "own"}}, []),
        ({"adapters": {"existingConfigMap": "own"}, "test": {"adapter": "b"}}, ["b"]),
    ],
)
def test_the_test_asks_what_is_declared(values: dict[str, Any], asked: list[str]) -> None:
    [ask] = only(render(values), "Pod")["spec"]["containers"]
    args = ask["args"]
    assert [args[i + 1] for i, arg in enumerate(args) if arg == "--adapter"] == asked


def test_the_test_with_mutual_tls_and_an_authority_of_its_own() -> None:
    values = {
        "tls": {"mutual": True},
        "test": {"caSecret": "authority", "caKey": "root.pem", "clientSecret": "client"},
    }
    spec = only(render(values), "Pod")["spec"]
    [ask] = spec["containers"]
    env = {one["name"]: one.get("value") for one in ask["env"]}
    volumes = {volume["name"]: volume.get("secret") for volume in spec["volumes"]}
    assert env["LORAMUX_CA"] == "/etc/loramux-tls/root.pem"
    assert env["LORAMUX_KEY"] == "/etc/loramux-client/tls.key"
    assert volumes["tls"]["secretName"] == "authority"
    assert volumes["client"]["secretName"] == "client"


def test_keda_takes_more_triggers_and_another_query() -> None:
    cron = {"type": "cron", "metadata": {"timezone": "UTC"}}
    own = {"query": 'sum(up{job="x"})', "metadata": {"ignoreNullValues": "true"}}
    keda = own | {"enabled": True, "triggers": [cron], "advanced": {"a": 1}}
    spec = only(render({"scaling": {"keda": keda}}), "ScaledObject")["spec"]
    first, second = spec["triggers"]
    assert first["metadata"]["query"] == own["query"]
    assert first["metadata"]["threshold"] == "8"
    assert first["metadata"]["ignoreNullValues"] == "true"
    assert second == cron
    assert spec["advanced"] == {"a": 1}
