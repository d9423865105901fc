"""What the chart refuses by name, since Kubernetes would, or since nothing would come of it."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from .helm import render
from .test_chart_choices import GATE, POOL

ROUTER: dict[str, Any] = {"enabled": True}
PICKER: dict[str, Any] = {"enabled": True}
MONITORED: dict[str, Any] = {"podMonitor": {"enabled": True}}
OWN_LABEL = {"app.kubernetes.io/name": "mine"}
FETCHED: dict[str, Any] = {
    "model": {"existingClaim": "", "fetch": {"source": "hf://org/name"}},
    "networkPolicy": {"egress": [{"ports": [{"port": 443}]}]},
}


def keda(**values: Any) -> dict[str, Any]:
    return {"scaling": {"keda": {"enabled": True} | values}}


def fetched(source: str, **values: str) -> dict[str, Any]:
    return {"model": {"fetch": {"source": source} | values}}


def named(*names: str) -> dict[str, Any]:
    return {"settings": {"metrics_names": list(names)}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replica": 2}, "replica"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"replicas": -1}, "replicas"),
        ({"settings": {"port": 1}}, "settings.port is the chart's own"),
        ({"settings": {"base": "/b"}}, "use model.base"),
        ({"model": {"existingClaim": ""}}, "existingClaim, volume and fetch.source"),
        ({"model": {"fetch": {"source": "hf://o/n"}}}, "networkPolicy.egress"),
        ({"model": {"fetch": {"sha256": "x"}}}, "sha256"),
        ({"model": {"fetch": {"source": "https://host/base.tar.gz"}}}, "sha256"),
        ({"tls": {"enabled": False, "mutual": True}}, "tls.mutual needs"),
        (
            {"scaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}},
            "hpa and keda are both on",
        ),
        ({"gateway": {"grpcRoute": {"enabled": True}}}, "name a Gateway"),
        ({"resources": {"limits": {"cpu": 2}}}, "resources.requests.cpu 4 is more than"),
        ({"resources": {"limits": {"cpu": "3900m"}}}, "resources.limits.cpu 3900m"),
        ({"resources": {"requests": {"memory": "9000Mi"}}}, "resources.limits.memory 8Gi"),
        ({"router": {"resources": {"limits": {"cpu": "50m"}}}}, "router.resources.requests.cpu"),
        (fetched("https://h/b.tar"), "model.fetch.source is an archive, which needs"),
        (fetched("https://h/b.tar", sha256="0" * 64, revision="v1"), "model.fetch.revision is for"),
        (fetched("hf://o/n", sha256="0" * 64), "model.fetch.sha256 is for"),
        (FETCHED, "nothing fills /models/adapters/support"),
        ({"picker": POOL, "gateway": {"grpcRoute": GATE}}, "gateway.grpcRoute"),
        (
            {"tls": {"mutual": True}, "router": ROUTER},
            "tls.mutual needs router.upstreamTLS.clientSecret",
        ),
        (named("loramux") | {"picker": PICKER}, "picker needs vllm"),
        (named("vllm") | {"scaling": {"hpa": {"enabled": True}}}, "scaling.hpa.metric needs"),
        (named("vllm") | keda() | {"monitoring": MONITORED}, "needs loramux"),
        (keda(), "monitoring.podMonitor.enabled"),
        (keda(minReplicas=0) | {"monitoring": MONITORED}, "scaling.keda.minReplicas 0"),
        ({"router": {"placement": {"enabled": True}}}, "router.placement.enabled needs"),
        (
            {"picker": PICKER, "router": {"placement": {"enabled": True}}},
            "router.placement.enabled needs",
        ),
        (
            {"stateClaim": {"enabled": True}, "strategy": {"rollingUpdate": {"maxSurge": 2}}},
            "strategy.rollingUpdate",
        ),
        ({"stateClaim": {"enabled": True}, "progressDeadlineSeconds": 60}, "progressDeadline"),
        ({"auth": {"existingSecret": ""}}, "auth.existingSecret is empty"),
        ({"tls": {"existingSecret": ""}}, "tls.existingSecret is empty"),
        ({"test": {"tokenSecret": ""}}, "test.tokenSecret is empty"),
        ({"commonLabels": OWN_LABEL}, "/commonLabels/app"),
        ({"podLabels": OWN_LABEL}, "/podLabels/app"),
        ({"service": {"spec": {"type": "NodePort"}}}, "/service/spec/type"),
        (
            {"gateway": {"httpRoute": GATE | {"rule": {"backendRefs": []}}}},
            "/httpRoute/rule/backendRefs",
        ),
        (
            {"router": {"service": {"type": "LoadBalancer", "clusterIP": "None"}}},
            "router.service.clusterIP",
        ),
        ({"picker": {"apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}}, "/picker/apiServer"),
        ({"picker": PICKER | {"serviceAccount": {"create": False}}}, "picker.serviceAccount"),
        ({"picker": PICKER, "router": {"ports": {"admin": 9003}}}, "router.ports.admin: 9003"),
        ({"router": ROUTER | {"ports": {"http": 50051}}}, "router.ports.http: 50051 is"),
    ],
)
def test_what_would_not_work_is_refused_by_name(values: dict[str, Any], told: str) -> None:
    with pytest.raises(helm_python.HelmError) as error:
        render(values)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"resources": {"limits": {"cpu": "4000m", "memory": "8192Mi"}}},
        {"resources": {"limits": {"cpu": "1e1"}}},
        FETCHED | {"initContainers": [{"name": "adapters", "image": "a:1"}]},
        FETCHED
        | {"adapters": {"manifest": {"adapters": [{"name": "a", "source": "/models/base/a"}]}}},
        keda(minReplicas=0, query="sum(waiting)"),
        keda(minReplicas=0, triggers=[{"type": "cron"}]) | {"monitoring": MONITORED},
        named("vllm") | {"scaling": {"hpa": {"enabled": True, "metric": "vllm_waiting"}}},
        {"auth": {"enabled": False, "existingSecret": ""}, "test": {"tokenSecret": ""}},
        {"adapters": {"manifest": None}},
        FETCHED | {"adapters": {"manifest": None}},
        {"stateClaim": {"enabled": True}, "strategy": {"type": "RollingUpdate"}},
    ],
)
def test_what_works_is_not(values: dict[str, Any]) -> None:
    assert render(values)
