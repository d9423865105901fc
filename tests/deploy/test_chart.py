"""The chart: what each kind of user asks for, as objects that Kubernetes takes."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from .helm import CHART, chart_render, only, render

KUBERNETES = "1.37.0"
CORE = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "autoscaling/v2")
EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "llm",
    "commonLabels": {"team": "ml"},
    "commonAnnotations": {"owner": "ml"},
    "image": {"repository": "registry.example/loramux", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "model": {"existingClaim": "base-claim", "subPath": "smol"},
    "gpu": {"count": 2},
    "sharedMemory": "1Gi",
    "serviceAccount": {"create": True},
    "runtimeClassName": "nvidia",
    "priorityClassName": "high",
    "schedulerName": "own",
    "nodeSelector": {"gpu": "h100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "podLabels": {"mesh": "off"},
    "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "llm"}],
    "extraEnvFrom": [{"secretRef": {"name": "keys"}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "extraContainers": [{"name": "beside", "image": "beside:1"}],
    "initContainers": [{"name": "before", "image": "before:1"}],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}},
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-text'}}",
    ],
    "scaling": {"hpa": {"enabled": True}},
    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    "probes": {"liveness": {"exec": {"command": ["loramux", "health"]}}},
}


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = only(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def server(objects: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = pod(objects)["containers"][0]
    return found


def settings(objects: list[dict[str, Any]], name: str = "loramux") -> dict[str, Any]:
    [data] = [o["data"]["loramux.yaml"] for o in objects if "loramux.yaml" in (o.get("data") or {})]
    found: dict[str, Any] = yaml.safe_load(data)
    return found


@pytest.mark.parametrize(
    "values",
    [
        {},
        EVERYTHING,
        {"model": {"existingClaim": "", "volume": {"nfs": {"server": "nas", "path": "/m"}}}},
        {
            "auth": {"enabled": False},
            "tls": {"enabled": False},
            "networkPolicy": {"enabled": False},
        },
        {"adapters": {"existingConfigMap": "mine"}, "service": {"clusterIP": ""}},
    ],
    ids=["default", "everything", "volume", "open", "own-manifest"],
)
@pytest.mark.parametrize("release", ["loramux", "a" * 53])
def test_what_it_gives_is_what_kubernetes_takes(values: dict[str, Any], release: str) -> None:
    objects = render(values, release=release)
    assert {o["kind"] for o in objects} >= {"Deployment", "Service", "ConfigMap"}
    for one in objects:
        if one["apiVersion"] in CORE:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
        assert len(one["metadata"]["name"]) <= 63


def test_the_manifest_is_what_it_gives_by_default() -> None:
    assert chart_render.MANIFEST.read_text() == chart_render.manifest()


def test_it_has_no_findings_of_lint() -> None:
    found = helm_python.lint(str(CHART))
    assert not re.search(r"ERROR|WARNING", json.dumps(found, default=str))


def test_all_that_users_of_other_charts_asked_for_is_in_the_pod() -> None:
    objects = render(EVERYTHING)
    spec, container = pod(objects), server(objects)
    assert "replicas" not in only(objects, "Deployment")["spec"]
    assert spec["serviceAccountName"] == "llm"
    assert only(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["priorityClassName"] == "high"
    assert spec["tolerations"] == EVERYTHING["tolerations"]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert container["image"] == f"registry.example/loramux@sha256:{'0' * 64}"
    assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 2}
    assert {"name": "more", "mountPath": "/more"} in container["volumeMounts"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/models"] == {
        "mountPath": "/models", "name": "models", "readOnly": True, "subPath": "smol"
    }  # fmt: skip
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == "base-claim"
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert [c["name"] for c in spec["containers"]] == ["loramux", "beside"]
    assert [c["name"] for c in spec["initContainers"]] == ["before"]
    assert "grpc" not in container["livenessProbe"]
    assert container["livenessProbe"]["exec"] == {"command": ["loramux", "health"]}
    names = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    assert names >= {"plain", "loramux-text", "llm", "llm-adapters"}


def test_each_object_and_pod_has_the_common_labels() -> None:
    objects = [o for o in render(EVERYTHING) if o["metadata"]["name"].startswith("llm")]
    assert all(o["metadata"]["labels"]["team"] == "ml" for o in objects)
    assert all(o["metadata"]["annotations"]["owner"] == "ml" for o in objects)
    template = only(objects, "Deployment")["spec"]["template"]["metadata"]
    assert {"team": "ml", "mesh": "off"}.items() <= template["labels"].items()


def test_it_is_secure_by_default() -> None:
    objects = render()
    spec, container = pod(objects), server(objects)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    policy = only(objects, "NetworkPolicy")["spec"]
    assert policy["egress"] == []
    assert {"auth_file", "tls_cert", "tls_key"} <= settings(objects).keys()


def test_the_grace_period_comes_from_the_settings() -> None:
    objects = render({"settings": {"drain_delay_s": 2.5, "drain_s": 100}})
    assert pod(objects)["terminationGracePeriodSeconds"] == 113
    with pytest.raises(helm_python.HelmError, match="drain_delay_s"):
        render({"terminationGracePeriodSeconds": 59})


@pytest.mark.parametrize(
    ("cpu", "threads"), [("4", 4), (2, 2), ("500m", 1), ("3500m", 3), ("2.5", 2)]
)
def test_threads_are_the_cpus_that_are_asked_for(cpu: str | int, threads: int) -> None:
    assert settings(render({"resources": {"requests": {"cpu": cpu}}}))["threads"] == threads


def test_own_threads_stay() -> None:
    assert settings(render({"settings": {"threads": 7}}))["threads"] == 7


def stamp(values: dict[str, Any]) -> dict[str, str]:
    meta = only(render(values), "Deployment")["spec"]["template"]["metadata"]
    found: dict[str, str] = meta["annotations"]
    return found


def test_settings_make_new_pods_and_adapters_do_not() -> None:
    assert stamp({"settings": {"max_running": 7}}) != stamp({})
    adapters = {"manifest": {"adapters": [{"name": "other", "source": "/models/adapters/other"}]}}
    assert stamp({"adapters": adapters}) == stamp({})


def test_egress_brings_dns_and_no_more() -> None:
    rule = {"ports": [{"port": 443}]}
    dns, given = only(render({"networkPolicy": {"egress": [rule]}}), "NetworkPolicy")["spec"][
        "egress"
    ]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert given == rule


def test_a_base_is_fetched_before_the_server_starts() -> None:
    values = {
        "model": {
            "existingClaim": "",
            "fetch": {
                "source": "hf://org/name",
                "revision": "0123abc",
                "env": [
                    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "t"}}}
                ],
            },
        },
        "adapters": {"manifest": {"adapters": [{"name": "a", "source": "/models/base/a"}]}},
        "networkPolicy": {"egress": [{"ports": [{"port": 443}]}]},
    }
    spec = pod(render(values))
    [fetcher] = spec["initContainers"]
    assert fetcher["args"] == ["fetch", "hf://org/name", "/models/base", "--revision=0123abc"]
    assert any(one["name"] == "HF_TOKEN" for one in fetcher["env"])
    [models] = [v for v in spec["volumes"] if v["name"] == "models"]
    assert models["emptyDir"] == {"sizeLimit": "50Gi"}


@pytest.mark.parametrize("base", ["a #b", "a: b", "a\nport: 1", 'a "b"'])
def test_a_bases_name_is_no_more_than_that(base: str) -> None:
    found = settings(render({"model": {"base": base}}))
    assert found["base"] == f"/models/{base}"
    assert "port" not in found


def test_keda_scales_by_what_waits_in_the_release() -> None:
    values = {
        "scaling": {"keda": {"enabled": True}},
        "monitoring": {"podMonitor": {"enabled": True}},
    }
    objects = render(values, release="some", namespace="models")
    [trigger] = only(objects, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["query"] == (
        'sum(loramux_waiting_sequences{namespace="models",job="some-loramux"})'
    )
    assert "replicas" not in only(objects, "Deployment")["spec"]


def test_routes_lead_to_the_service() -> None:
    route = {"enabled": True, "parentRefs": [{"name": "gate"}], "hostnames": ["llm.example"]}
    objects = render({"gateway": {"grpcRoute": route, "httpRoute": route}})
    for kind, port in (("GRPCRoute", 50051), ("HTTPRoute", 8000)):
        spec = only(objects, kind)["spec"]
        assert spec["rules"] == [{"backendRefs": [{"name": "loramux", "port": port}]}]
        assert spec["hostnames"] == ["llm.example"]


def test_the_test_asks_as_a_client_does() -> None:
    spec = only(render({"test": {"adapter": "a1"}}), "Pod")["spec"]
    [ask] = spec["containers"]
    assert ask["args"][:3] == ["generate", "--adapter", "a1"]
    env = {one["name"]: one for one in ask["env"]}
    assert env["LORAMUX_TARGET"]["value"] == "loramux:50051"
    assert env["LORAMUX_CA"]["value"] == "/etc/loramux-tls/ca.crt"
    assert env["LORAMUX_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "loramux-test-token"
