"""Three servers of a cluster behind an endpoint picker, and what their own metrics say of calls."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import overlay
import yaml
from cluster import Cluster, name, wait

HERE = Path(__file__).parent
SERVERS = 3
SLOTS = 4
ENV = {
    "LORAMUX_MAX_ADAPTERS": str(SLOTS),
    "LORAMUX_ADAPTER_HOST_BYTES": "0",  # what leaves a slot is read again: each miss is a load
    "LORAMUX_KV_CACHE_BYTES": str(128 << 20),
}
PICKER, ENVOY = (
    "registry.k8s.io/gateway-api-inference-extension/epp",
    "docker.io/envoyproxy/envoy",
)
ROUND_ROBIN = "round robin"
_REQUESTS = r'^loramux_requests_total\{adapter="([^"]*)",outcome="[^"]*"\} (\S+)$'
_PAGE = """
import sys, urllib.request
print(urllib.request.urlopen("http://localhost:9464" + sys.argv[1]).read().decode())
"""


@dataclass
class Count:
    """What the servers counted, each by its pod."""

    calls: dict[tuple[str, str], int]
    """Requests that ended, by pod and adapter."""
    loads: dict[str, int]
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
    """The servers, the picker before them, and a client's pod."""

    cluster: Cluster
    picker_image: str
    envoy_image: str
    authority: bytes
    token: str

    def deploy(self, target: overlay.Target, adapters: list[str]) -> None:
        """New servers that know of `adapters`, with nothing in their slots' places but by chance."""
        self.cluster.run("delete", "deployment", "loramux", "--ignore-not-found")
        wait(lambda: not self.cluster.pods(), 120, "end of the pods")
        variant = overlay.Variant(SERVERS, adapters=tuple(adapters))
        overlay.apply(self.cluster, target, variant)
        self.cluster.wait_ready(SERVERS, 300)

    def route(self, router: str) -> None:
        """Route as the file `router` says (its name without .yaml), or round robin."""
        printed = self.cluster.python("client", (HERE / "descriptors.py").read_text())
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shutil.copytree(HERE / "picker", folder, dirs_exist_ok=True)
            (folder / "loramux.binpb").write_bytes(base64.b64decode(printed))
            if router == ROUND_ROBIN:
                file = folder / "envoy.yaml"
                file.write_text(json.dumps(in_turn(yaml.safe_load(file.read_text()))))
            images = {PICKER: self.picker_image, ENVOY: self.envoy_image}
            file = folder / "kustomization.yaml"
            file.write_text(kustomization(file.read_text(), self.cluster.namespace, images, router))
            self.cluster.run("apply", "-f", "-", stdin=self.cluster.run("kustomize", name))
        self.cluster.run("rollout", "status", "deployment/loramux-picker", "--timeout=180s")
        wait(self._alone, 60, "end of the picker before")
        time.sleep(2)  # it has read every server, and the Service knows it

    def _alone(self) -> bool:
        found = self.cluster.run("get", "pods", "-l", "app=loramux-picker", "-o", "name")
        return len(found.split()) == 1

    def load(self, calls: list[tuple[str, str]], at_once: int, **changes: Any) -> dict[str, Any]:
        """Call through the picker, or what `changes` names."""
        asked = {
            "calls": calls,
            "at_once": at_once,
            "tokens": 8,
            "grpc": "loramux-picker:50051",
            "http": "loramux-picker:8000",
            "token": self.token,
            "authority": "",
        }
        script = (HERE / "picker_load.py").read_text()
        command = ["exec", "-i", "client", "--", "python", "-c", script]
        return dict(json.loads(self.cluster.run(*command, stdin=json.dumps(asked | changes))))

    def place(self, adapters: dict[str, list[str]]) -> None:
        """Call each pod for its adapters, past the picker, and wait until its page has just these."""
        for pod, names in adapters.items():
            ip = self.cluster.get("pod", pod)["status"]["podIP"]
            calls = [(adapter, "unary") for adapter in names]
            done = self.load(calls, 1, grpc=f"{ip}:50051", authority=self.authority.decode())
            if done["ends"] != {"OK": len(names)}:
                raise RuntimeError(f"{pod} does not serve {names}: {done['ends']}")
        for pod, names in adapters.items():
            wait(lambda: self.residents(pod) == sorted(names), 20, f"residents of {pod}")  # noqa: B023
        time.sleep(0.5)  # a picker reads twenty times a second

    def residents(self, pod: str) -> list[str]:
        return listed(self.cluster.python(pod, _PAGE, "/metrics/router"))

    def count(self) -> Count:
        count = Count({}, {})
        for pod in map(name, self.cluster.pods()):
            count.add(pod, self.cluster.python(pod, _PAGE, "/metrics"))
        return count


def listed(page: str) -> list[str]:
    """Adapters that a page for routers has as running."""
    found = re.search(r'^vllm:lora_requests_info\{.*running_lora_adapters="([^"]*)"', page, re.M)
    return [one for one in found[1].split(",") if one] if found else []


def kustomization(text: str, namespace: str, images: dict[str, str], router: str) -> str:
    """That of picker/ for these: new images by the old ones' names, and what the picker decides by."""
    if router != ROUND_ROBIN:
        text = text.replace("=mix.yaml", f"={router}.yaml")
    parts = {old: new.rpartition(":") for old, new in images.items()}
    changed = [
        {"name": old, "newName": name, "newTag": tag} for old, (name, _, tag) in parts.items()
    ]
    return json.dumps(yaml.safe_load(text) | {"namespace": namespace, "images": changed})


def in_turn(envoy: dict[str, Any]) -> dict[str, Any]:
    """Envoy's configuration without the picker: every call to the next server."""
    resources = envoy["static_resources"]
    for listener in resources["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        filters = manager["http_filters"]
        manager["http_filters"] = [f for f in filters if not f["name"].endswith("ext_proc")]
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            route["route"]["cluster"] = route["route"]["cluster"].replace("picked", "any")
            route.pop("typed_per_filter_config", None)
    for cluster in resources["clusters"]:
        if cluster["name"].startswith("any"):
            cluster["lb_policy"] = "ROUND_ROBIN"
    return envoy
