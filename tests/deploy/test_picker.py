"""The chart's endpoint picker, with its Envoy and for another gateway."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from .helm import only
from .test_router import config, manager, objects

WITH_ENVOY: dict[str, Any] = {"picker": {"enabled": True}}
ALONE: dict[str, Any] = {"picker": {"enabled": True, "envoy": {"enabled": False}}}


@pytest.mark.parametrize("values", [WITH_ENVOY, ALONE])
def test_kubernetes_takes_it(values: dict[str, Any]) -> None:
    for one in objects(values):
        ours = one["metadata"]["labels"]["app.kubernetes.io/component"] == "picker"
        if ours and one["kind"] != "InferencePool":  # of which it has no schema
            kubernetes_validate.validate(one, "1.37.0", strict=True)


@pytest.mark.parametrize("values", [WITH_ENVOY, ALONE])
def test_the_picker_finds_what_the_servers_open(values: dict[str, Any]) -> None:
    found = objects(values)
    server = only(found, "Deployment", "loramux")["spec"]["template"]
    ports = {p["name"]: p["containerPort"] for p in server["spec"]["containers"][0]["ports"]}
    pool = only(found, "InferencePool")["spec"]
    assert pool["selector"]["matchLabels"].items() <= server["metadata"]["labels"].items()
    (port,) = pool["targetPorts"]
    flags = container(found)["args"]
    if values is WITH_ENVOY:
        assert port["number"] == ports["metrics"]
    else:  # a gateway calls the port itself
        assert port["number"] == ports["http"]
        assert f"--model-server-metrics-port={ports['metrics']}" in flags
    let_in = only(found, "NetworkPolicy", "-picker-to-servers")["spec"]
    assert {"port": "metrics"} in let_in["ingress"][0]["ports"]
    labels = only(found, "Deployment", "-picker")["spec"]["template"]["metadata"]["labels"]
    assert let_in["ingress"][0]["from"][0]["podSelector"]["matchLabels"].items() <= labels.items()


def container(found: list[dict[str, Any]]) -> dict[str, Any]:
    containers = only(found, "Deployment", "-picker")["spec"]["template"]["spec"]["containers"]
    (one,) = [container for container in containers if container["name"] == "picker"]
    return dict(one)


def test_its_account_is_the_pickers_alone() -> None:
    found = objects(WITH_ENVOY)
    spec = only(found, "Deployment", "-picker")["spec"]["template"]["spec"]
    assert not spec["automountServiceAccountToken"]
    mounts = {one["name"]: {m["name"] for m in one["volumeMounts"]} for one in spec["containers"]}
    assert "api-token" in mounts["picker"]
    assert "api-token" not in mounts["envoy"]
    rules = only(found, "Role")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}


def test_envoy_asks_it_with_the_adapter_and_knows_the_servers_ports() -> None:
    resources = config(objects(WITH_ENVOY), "picker")
    listeners = {one["name"]: one for one in resources["listeners"]}
    for name, port in {"grpc": 50051, "http": 8000}.items():
        filters = manager(listeners[name])["http_filters"]
        assert [one["name"].rpartition(".")[2] for one in filters][1:] == ["lua", "router"]
        code = filters[1]["typed_config"]["default_source_code"]["inline_string"]
        assert f'gsub(":9464,", ":{port},")' in code
    choice = listeners["choice"]
    assert choice["address"]["socket_address"]["address"] == "127.0.0.1"
    assert manager(choice)["http_filters"][0]["name"].endswith("ext_proc")
    policies = {
        one["name"]: one["load_balancing_policy"]["policies"][0]["typed_extension_config"]["name"]
        for one in resources["clusters"]
        if "load_balancing_policy" in one
    }
    kinds = {name.partition("_")[0]: kind.rpartition(".")[2] for name, kind in policies.items()}
    assert kinds == {"adapters": "override_host", "any": "least_request"}


def test_what_it_decides_by() -> None:
    def said(**changes: Any) -> Any:
        values = {"picker": {"enabled": True, **changes}}
        text = only(objects(values), "ConfigMap", "-picker-config")["data"]["picker.yaml"]
        return yaml.safe_load(text)

    mix = said(weights={"adapter": 5})
    (profile,) = mix["schedulingProfiles"]
    weights = {one["pluginRef"]: one.get("weight") for one in profile["plugins"]}
    assert weights["lora-affinity-scorer"] == 5
    assert weights["queue-scorer"] == 1
    assert {one["type"] for one in mix["plugins"]} >= weights.keys()
    assert mix["parser"] == {"pluginRef": "passthrough-parser"}
    assert said(envoy={"enabled": False})["parser"] == {"pluginRef": "openai-parser"}
    assert said(config="plugins: []") == {"plugins": []}
