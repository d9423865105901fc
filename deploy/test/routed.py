"""Three servers of a cluster behind the chart's router or picker, and what their own metrics say of calls."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import Cluster, is_ready, name, wait

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "loramux"
SERVERS = 3
LABEL = "app.kubernetes.io/component={}"
ROUND_ROBIN = "round robin"
_REQUESTS = r'^loramux_requests_total\{adapter="([^"]*)",outcome="[^"]*"\} (\S+)$'
_PAGE = """
import sys, urllib.request
print(urllib.request.urlopen("http://localhost:9464" + sys.argv[1]).read().decode())
"""
ROUTERS: dict[str, dict[str, Any]] = {
    ROUND_ROBIN: {"router": {"enabled": True, "policy": "round_robin"}},
    "least request": {"router": {"enabled": True, "policy": "least_request"}},
    "hash": {"router": {"enabled": True, "hashBalanceFactor": 0}},
    "hash 150": {"router": {"enabled": True, "hashBalanceFactor": 150}},
    "hash 200": {"router": {"enabled": True, "hashBalanceFactor": 200}},
    "picker": {"picker": {"enabled": True}},
    "picker, calls weigh more": {
        "picker": {"enabled": True, "weights": {"adapter": 3, "queue": 1, "running": 1}}
    },
    "placement": {"router": {"enabled": True, "placement": {"enabled": True}}},
}
"""The chart's values of each router; of one Envoy alone, so that what it knows is all there is."""


@dataclass
class Count:
    """What the servers counted, each by its pod."""

    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    """Requests that ended, by pod and adapter."""
    loads: dict[str, int] = field(default_factory=dict)
    """Adapter versions read into a slot, by pod."""

    def add(self, pod: str, page: str) -> None:
        """Take in the pod's page of metrics."""
        for adapter, n in re.findall(_REQUESTS, page, re.M):
            self.calls[pod, adapter] = self.calls.get((pod, adapter), 0) + round(float(n))
        found = re.search(r"^loramux_adapter_loads_total (\S+)$", page, re.M)
        self.loads[pod] = round(float(found[1])) if found else 0

    def since(self, before: Count) -> Count:
        """What was added to `before`."""
        calls = {key: n - before.calls.get(key, 0) for key, n in self.calls.items()}
        return Count(
            {key: n for key, n in calls.items() if n},
            {pod: n - before.loads.get(pod, 0) for pod, n in self.loads.items()},
        )

    def by_pod(self) -> dict[str, int]:
        found = Counter(dict.fromkeys(self.loads, 0))
        for (pod, _), n in self.calls.items():
            found[pod] += n
        return dict(found)


@dataclass
class Routed:
    """The servers, what stands before them, and a client's pod."""

    cluster: Cluster
    images: dict[str, str | None]
    """Of server, envoy and picker; without one it is the chart's."""
    authority: bytes
    token: str
    memory: str = "1Gi"
    _servers: dict[str, Any] = field(default_factory=dict)
    _front: str = ""

    def deploy(self, adapters: list[str], slots: int, router: str) -> None:
        """New servers that know of `adapters`, with so many slots each."""
        self._servers = servers(str(self.images["server"]), adapters, slots, self.memory)
        self.remove()
        self.route(router)
        wait(lambda: len(self.ready()) == SERVERS, 300, "servers")

    def remove(self) -> None:
        self._helm("uninstall", "loramux", "--ignore-not-found", "--wait")
        wait(lambda: not self.pods(), 120, "end of the pods")

    def route(self, router: str) -> None:
        """Route as ROUTERS has it."""
        values = merged(self._servers, merged(front(self.images), ROUTERS[router]))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            self._helm("upgrade", "--install", "loramux", str(CHART), "--values", file.name)
        component = "picker" if "picker" in ROUTERS[router] else "router"
        self._front = f"loramux-{component}"
        status = ["rollout", "status", f"deployment/{self._front}", "--timeout=180s"]
        self.cluster.run(*status)
        wait(lambda: self._alone(component), 180, "end of the Envoys before")
        time.sleep(2)  # a picker has read every server, and the Service knows it

    def _helm(self, *args: str) -> None:
        command = ["helm", "--namespace", self.cluster.namespace, *args]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"helm {args[0]}: {done.stderr.strip()}")

    def _alone(self, component: str) -> bool:
        """Tell whether one Envoy runs, which is of this component."""
        labels = "app.kubernetes.io/component in (router, picker)"
        found = self.cluster.run("get", "pods", "-l", labels, "-o", "name").split()
        return len(found) == 1 and f"-{component}-" in found[0]

    def pods(self) -> list[dict[str, Any]]:
        """The servers' pods, oldest first."""
        label = LABEL.format("server")
        found = json.loads(self.cluster.run("get", "pods", "-l", label, "-o", "json"))["items"]
        living = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(living, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def ready(self) -> list[str]:
        return [name(pod) for pod in self.pods() if is_ready(pod)]

    def load(self, calls: list[tuple[str, str]], at_once: int, **changes: Any) -> dict[str, Any]:
        """Call through Envoy, or what `changes` names."""
        asked = {
            "calls": calls,
            "at_once": at_once,
            "tokens": 8,
            "grpc": f"{self._front}:50051",
            "http": f"{self._front}:8000",
            "token": self.token,
            "authority": self.authority.decode(),
        }
        script = (HERE / "picker_load.py").read_text()
        command = ["exec", "-i", "client", "--", "python", "-c", script]
        return dict(json.loads(self.cluster.run(*command, stdin=json.dumps(asked | changes))))

    def place(self, adapters: dict[str, list[str]]) -> None:
        """Call each pod for its adapters, past Envoy, and wait until its page has just these."""
        for pod, names in adapters.items():
            ip = self.cluster.get("pod", pod)["status"]["podIP"]
            done = self.load([(adapter, "unary") for adapter in names], 1, grpc=f"{ip}:50051")
            if done["ends"] != {"OK": len(names)}:
                raise RuntimeError(f"{pod} does not serve {names}: {done['ends']}")
        for pod, names in adapters.items():
            wait(lambda: self.residents(pod) == sorted(names), 20, f"residents of {pod}")  # noqa: B023
        time.sleep(0.5)  # a picker reads twenty times a second

    def residents(self, pod: str) -> list[str]:
        return listed(self.cluster.python(pod, _PAGE, "/metrics/router"))

    def count(self) -> Count:
        count = Count()
        for pod in self.ready():
            count.add(pod, self.cluster.python(pod, _PAGE, "/metrics"))
        return count


def listed(page: str) -> list[str]:
    """Adapters that a page for routers has as running."""
    found = re.search(r'^vllm:lora_requests_info\{.*running_lora_adapters="([^"]*)"', page, re.M)
    return [one for one in found[1].split(",") if one] if found else []


def front(images: dict[str, str | None]) -> dict[str, Any]:
    """The chart's values of one Envoy and the images; its pod ends as soon as it may."""
    brief = {"replicas": 1, "maxConnectionAgeSeconds": 5, "drainSeconds": 1}
    return {"router": brief | image(images["envoy"]), "picker": image(images["picker"])}


def image(named: str | None) -> dict[str, Any]:
    """The chart's value of an image, where one is named."""
    if not named:
        return {}
    repository, _, tag = named.rpartition(":")
    return {"image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}}


def servers(server: str, adapters: list[str], slots: int, memory: str = "1Gi") -> dict[str, Any]:
    """The chart's values of three small servers that make their models themselves."""
    maker = {
        "name": "models",
        "image": server,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "/code/models.py", "/models", *adapters],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "models", "mountPath": "/models"},
            {"name": "code", "mountPath": "/code"},
        ],
    }
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "models"},
        "data": {"models.py": (HERE / "models.py").read_text()},
    }
    entries = [{"name": one, "source": f"/models/adapters/{one}"} for one in adapters]
    return {
        **image(server),
        "replicas": SERVERS,
        "minReadySeconds": 0,
        "networkPolicy": {
            "dns": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
        },  # wherever the cluster has it
        "probes": {"startup": {"failureThreshold": 60}},  # several start at once, on few cores
        "model": {"volume": {"emptyDir": {}}},
        "initContainers": [maker],
        "extraVolumes": [{"name": "code", "configMap": {"name": "models"}}],
        "extraObjects": [code],
        "adapters": {"manifest": {"adapters": entries}},
        "resources": {
            "requests": {"cpu": "200m", "memory": "512Mi"},
            "limits": {"memory": memory},
        },
        "settings": {
            "threads": 1,
            "max_adapters": slots,
            "adapter_host_bytes": 0,  # what leaves a slot is read again: each miss is a load
            "kv_cache_bytes": 128 << 20,
        },
    }


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Put `other` over `one`, within maps too."""
    both = {
        key: merged(one[key], other[key])
        for key in one.keys() & other.keys()
        if isinstance(one[key], dict)
    }
    return one | other | both
