"""The chart's router: what its objects let in and out, and that Envoy takes its configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from loramux.v1 import inference_pb2

from .envoy import ROOT, binary, envoy_render, write
from .helm import only, render

ON: dict[str, Any] = {"router": {"enabled": True}}
SERVER_PORTS = {"grpc", "http"}


def objects(values: dict[str, Any] = ON) -> list[dict[str, Any]]:
    return _rendered(json.dumps(values))


@cache
def _rendered(values: str) -> list[dict[str, Any]]:
    return render(json.loads(values))


def config(found: list[dict[str, Any]], component: str = "router") -> Any:
    text = only(found, "ConfigMap", f"-{component}")["data"]["envoy.yaml"]
    return yaml.safe_load(text)["static_resources"]


def test_nothing_of_it_without_it() -> None:
    assert not [one for one in render() if "router" in str(one["metadata"]["labels"])]


def test_kubernetes_takes_it() -> None:
    for one in objects():
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "router":
            kubernetes_validate.validate(one, "1.37.0", strict=True)


def test_the_pod_is_closed() -> None:
    spec = only(objects(), "Deployment", "-router")["spec"]["template"]["spec"]
    (envoy,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    assert envoy["securityContext"]["readOnlyRootFilesystem"]
    assert envoy["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(mount["readOnly"] for mount in envoy["volumeMounts"])
    keys = {
        volume["name"]: {item["key"] for item in volume["secret"]["items"]}
        for volume in spec["volumes"]
        if "secret" in volume
    }
    assert keys == {"router-tls": {"tls.crt", "tls.key"}}
    assert authorities(spec) == {"loramux-tls": {"ca.crt"}}


def authorities(spec: dict[str, Any]) -> dict[str, set[str]]:
    """The Secrets that Envoy has towards the servers, and their keys."""
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "servers-tls"]
    secrets = [source["secret"] for source in volume["projected"]["sources"]]
    return {one["name"]: {item["key"] for item in one["items"]} for one in secrets}


def test_envoy_has_a_certificate_of_its_own_towards_the_servers() -> None:
    router = ON["router"] | {"upstreamTLS": {"caSecret": "authority", "clientSecret": "client"}}
    found = objects({"tls": {"mutual": True}, "router": router})
    spec = only(found, "Deployment", "-router")["spec"]["template"]["spec"]
    assert authorities(spec) == {"authority": {"ca.crt"}, "client": {"tls.crt", "tls.key"}}
    assert "loramux-tls" in {v.get("secret", {}).get("secretName") for v in spec["volumes"]}


def test_a_stop_outlasts_connections_and_calls() -> None:
    values = {"router": {"enabled": True, "maxConnectionAgeSeconds": 10, "drainSeconds": 30}}
    found = objects(values)
    spec = only(found, "Deployment", "-router")["spec"]
    pod = spec["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= 10 + 30
    assert pod["terminationGracePeriodSeconds"] > pause
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for listener in config(found)["listeners"][:2]:
        options = manager(listener)["common_http_protocol_options"]
        assert options == {"max_connection_duration": "10s"}


def manager(listener: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def test_a_message_that_does_not_come_is_not_waited_for() -> None:
    for listener in config(objects())["listeners"][:2]:
        assert manager(listener)["request_timeout"] == "30s"
    (envoy,) = only(objects(), "Deployment", "-router")["spec"]["template"]["spec"]["containers"]
    assert envoy["resources"]["limits"]["memory"] == "768Mi"  # maxHeapBytes is less by far


def test_policies_join_envoy_and_servers() -> None:
    found = objects()
    policy = only(found, "NetworkPolicy", "-router")["spec"]
    calls, metrics = policy["ingress"]
    assert {port["port"] for port in calls["ports"]} == SERVER_PORTS
    assert metrics["from"]
    labels = only(found, "Deployment", "-router")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    _, servers = policy["egress"]
    assert {port["port"] for port in servers["ports"]} == SERVER_PORTS
    let_in = only(found, "NetworkPolicy", "-router-to-servers")["spec"]
    (rule,) = let_in["ingress"]
    assert {port["port"] for port in rule["ports"]} == SERVER_PORTS
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    (peer,) = servers["to"]
    assert peer["podSelector"] == let_in["podSelector"]


def test_envoy_asks_for_pods_not_for_a_service() -> None:
    for address, host in {"None": "loramux", "": "loramux-pods"}.items():
        found = objects(ON | {"service": {"clusterIP": address}})
        service = only(found, "Service", host)
        assert service["spec"]["clusterIP"] == "None"
        for cluster in config(found)["clusters"][:-1]:
            (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            where = endpoint["endpoint"]["address"]["socket_address"]
            assert (where["address"], where["port_value"]) in ((host, 50051), (host, 8000))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"router": {"enabled": True, "hashBalanceFactor": 50}}, "hashBalanceFactor"),
        ({"router": {"enabled": True, "hashBalancefactor": 150}}, "hashBalancefactor"),
        (ON | {"tls": {"enabled": False}}, "router.tls.existingSecret"),
        (
            {"router": {"enabled": True, "tls": {"enabled": False}}, "tls": {"mutual": True}},
            "mutual",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        render(values)


def test_the_base_has_the_names_that_the_server_gives_it() -> None:
    def lua(values: dict[str, Any]) -> str:
        filters = manager(config(objects(values))["listeners"][1])["http_filters"]
        (code,) = [f["typed_config"] for f in filters if f["name"].endswith("lua")]
        return str(code["default_source_code"]["inline_string"])

    assert '["base"] = true' in lua(ON)
    assert '["smol"] = true' in lua(ON | {"model": {"base": "models/smol"}})
    named = lua(ON | {"settings": {"served_model_names": ["gpt", "llm"]}})
    assert '["gpt"] = true' in named
    assert '["llm"] = true' in named


def test_envoy_reads_the_fields_that_name_adapters() -> None:
    extraction = manager(config(objects())["listeners"][0])["http_filters"][0]["typed_config"]
    text = (ROOT / "deploy/helm/loramux/files/envoy/fields.txt").read_text().strip()
    assert extraction["descriptor_set"] == {"inline_bytes": text}
    script = [str(ROOT / "deploy/envoy/fields.py")]
    made = subprocess.run([sys.executable, *script], capture_output=True, check=True)
    assert made.stdout.decode().strip() == text
    methods = inference_pb2.DESCRIPTOR.services_by_name["Inference"].methods
    assert set(extraction["extractions_by_method"]) == {method.full_name for method in methods}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "tls": {"mutual": True},
            "router": {"accessLog": True, "upstreamTLS": {"clientSecret": "client"}},
        },
        {"router": {"policy": "least_request"}},
        {"router": {"hashBalanceFactor": 0, "servers": [{"host": "a", "grpc": 1, "http": 2}]}},
        {"picker": {"enabled": True}},
    ],
    ids=["default", "mutual", "least request", "list", "picker"],
)
def test_envoy_takes_its_configuration(values: dict[str, Any], tmp_path: Path) -> None:
    command = [str(binary()), "--mode", "validate", "-c", str(write(values, tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def test_the_files_of_plain_machines_are_the_charts() -> None:
    folder = ROOT / "deploy/envoy"
    made = envoy_render.files(yaml.safe_load((folder / "values.yaml").read_text()))
    for name, text in made.items():
        assert (folder / name).read_text().partition("\n")[2] == text
